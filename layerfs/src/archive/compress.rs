//! Compression of layers.
//!
//! Out: gzip in independent members of 1 MiB, compressed in parallel by libdeflate, and zstd with workers. Both give
//! the same bytes on one core and on many. In: gzip by flate2 with zlib-rs (streaming), zstd, or none, told by the
//! first bytes and not by what a media type claims.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};

use libdeflater::{CompressionLvl, Compressor as Deflater};

use crate::error::{Context, Error, Kind, Result};

/// Input of one gzip member. Part of the output's identity: never change it.
const MEMBER: usize = 1 << 20;
/// More threads than these are faster than what is compressed can be read and hashed, and cost memory: a thread of
/// libdeflate has 2 MiB under way, one of zstd 8 MiB.
const GZIP_THREADS: usize = 16;
const ZSTD_THREADS: usize = 6;

/// How to compress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip, level 1 to 12 of libdeflate.
    Gzip {
        /// The level.
        level: u8,
    },
    /// zstd, level 1 to 22.
    Zstd {
        /// The level.
        level: u8,
    },
}

impl Compression {
    /// gzip at a level that writes no more than Go's and zlib's usual one, at several times their speed (`benches/compare
    /// export`).
    pub const GZIP: Self = Self::Gzip { level: 3 };
    /// zstd at its own default level.
    pub const ZSTD: Self = Self::Zstd { level: 3 };

    /// The OCI media type of a layer in this compression.
    pub fn layer_media_type(self) -> &'static str {
        use crate::oci::media_type::{OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD};
        match self {
            Self::None => OCI_LAYER,
            Self::Gzip { .. } => OCI_LAYER_GZIP,
            Self::Zstd { .. } => OCI_LAYER_ZSTD,
        }
    }
}

/// Compresses what is written to it. [`Compressor::finish`] must be called.
pub struct Compressor<W: Write>(Form<W>);

enum Form<W: Write> {
    None(W),
    Gzip(Members<W>),
    Zstd(zstd::stream::write::Encoder<'static, W>),
}

impl<W: Write> Compressor<W> {
    /// Begins.
    ///
    /// # Errors
    /// The level does not exist.
    pub fn new(out: W, compression: Compression) -> Result<Self> {
        Ok(Self(match compression {
            Compression::None => Form::None(out),
            Compression::Gzip { level } => {
                if CompressionLvl::new(level.into()).is_err() {
                    return Err(Error::new(Kind::Usage, format!("gzip has no level {level}")).hint("1 to 12"));
                }
                Form::Gzip(Members::new(out, level))
            }
            Compression::Zstd { level } => {
                let mut encoder = zstd::stream::write::Encoder::new(out, level.into()).context(|| "set up zstd")?;
                // With any number of workers but zero the output is the same.
                let workers = u32::try_from(rayon::current_num_threads().min(ZSTD_THREADS)).unwrap_or(1);
                encoder.multithread(workers).context(|| "set up zstd")?;
                Form::Zstd(encoder)
            }
        }))
    }

    /// Writes what is left and gives the output back.
    ///
    /// # Errors
    /// The output fails.
    pub fn finish(self) -> Result<W> {
        match self.0 {
            Form::None(out) => Ok(out),
            Form::Zstd(encoder) => encoder.finish().context(|| "compress"),
            Form::Gzip(members) => members.finish().context(|| "compress"),
        }
    }
}

impl<W: Write> Write for Compressor<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Form::None(out) => out.write(bytes),
            Form::Zstd(encoder) => encoder.write(bytes),
            Form::Gzip(members) => members.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// gzip in members: while the writer's thread fills one, others are compressed, and they are written in their order.
struct Members<W> {
    out: W,
    level: u8,
    filling: Vec<u8>,
    /// Members in the order of their input, compressed or soon to be.
    under_way: VecDeque<Receiver<Vec<u8>>>,
    most: usize,
    begun: bool,
}

impl<W: Write> Members<W> {
    fn new(out: W, level: u8) -> Self {
        let most = rayon::current_num_threads().min(GZIP_THREADS) + 1;
        Self { out, level, filling: Vec::with_capacity(MEMBER), under_way: VecDeque::new(), most, begun: false }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(MEMBER - self.filling.len());
        self.filling.extend_from_slice(&bytes[..taken]);
        if self.filling.len() == MEMBER {
            self.begin();
            while self.under_way.len() > self.most {
                self.write_oldest()?;
            }
        }
        Ok(taken)
    }

    fn finish(mut self) -> io::Result<W> {
        // An empty input has one member, which says so.
        if !self.filling.is_empty() || !self.begun {
            self.begin();
        }
        while !self.under_way.is_empty() {
            self.write_oldest()?;
        }
        Ok(self.out)
    }

    fn begin(&mut self) {
        let input = std::mem::replace(&mut self.filling, Vec::with_capacity(MEMBER));
        let (sender, receiver) = sync_channel(1);
        let level = self.level;
        // Nobody waits for the result where the output has failed.
        rayon::spawn(move || drop(sender.send(member(&input, level))));
        self.under_way.push_back(receiver);
        self.begun = true;
    }

    fn write_oldest(&mut self) -> io::Result<()> {
        let Some(oldest) = self.under_way.pop_front() else { return Ok(()) };
        let member = match rayon::current_thread_index() {
            None => oldest.recv().ok(),
            // A thread that is one of the compressors itself helps instead of waiting for them.
            Some(_) => loop {
                match oldest.try_recv() {
                    Ok(member) => break Some(member),
                    Err(TryRecvError::Disconnected) => break None,
                    Err(TryRecvError::Empty) => drop(rayon::yield_now()),
                }
            },
        };
        self.out.write_all(&member.ok_or_else(|| io::Error::other("a thread that compresses is gone"))?)
    }
}

thread_local! {
    /// A thread's compressor and its level: making one costs as much as compressing a small file.
    static DEFLATER: RefCell<Option<(u8, Deflater)>> = const { RefCell::new(None) };
}

fn member(input: &[u8], level: u8) -> Vec<u8> {
    DEFLATER.with_borrow_mut(|kept| {
        let new = || Deflater::new(CompressionLvl::new(level.into()).expect("checked when it began"));
        let (_, deflater) = match kept {
            Some(kept) if kept.0 == level => kept,
            other => other.insert((level, new())),
        };
        let mut member = vec![0; deflater.gzip_compress_bound(input.len())];
        let size = deflater.gzip_compress(input, &mut member).expect("the bound is large enough");
        member.truncate(size);
        member
    })
}

/// Reads the uncompressed bytes of a gzip, zstd or plain stream.
///
/// # Errors
/// The source fails, or begins like a compression that layers do not use.
pub fn decompress<'a>(reader: impl Read + Send + 'a) -> Result<Box<dyn BufRead + Send + 'a>> {
    let mut reader = BufReader::with_capacity(1 << 18, reader);
    // A short first read must not hide the magic number.
    let mut start = [0u8; 6];
    let mut have = 0;
    while have < start.len() {
        let n = reader.read(&mut start[have..]).context(|| "read the layer")?;
        if n == 0 {
            break;
        }
        have += n;
    }
    let magic = start;
    let rest = io::Cursor::new(start).take(have as u64).chain(reader);
    Ok(match magic {
        [0x1f, 0x8b, ..] => Box::new(buffered(flate2::bufread::MultiGzDecoder::new(rest))),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(buffered(zstd_reader(rest)?)),
        // A skippable frame: some writers begin with one.
        [first, 0x2a, 0x4d, 0x18, ..] if first & 0xf0 == 0x50 => Box::new(buffered(zstd_reader(rest)?)),
        [b'B', b'Z', b'h', ..] => return Err(foreign("bzip2")),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => return Err(foreign("xz")),
        _ => Box::new(rest),
    })
}

/// For those who look at the bytes in place; who reads them in large pieces goes past the buffer.
fn buffered<R: Read>(reader: R) -> BufReader<R> {
    BufReader::with_capacity(1 << 20, reader)
}

fn zstd_reader<R: BufRead>(reader: R) -> Result<zstd::stream::read::Decoder<'static, R>> {
    zstd::stream::read::Decoder::with_buffer(reader).context(|| "set up zstd")
}

fn foreign(name: &str) -> Error {
    Error::new(Kind::Unsupported, format!("the layer is compressed with {name}"))
        .hint("layers are gzip, zstd or plain tar")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(input: &[u8], compression: Compression) -> Vec<u8> {
        let mut compressor = Compressor::new(Vec::new(), compression).expect("a compressor");
        compressor.write_all(input).expect("written");
        let packed = compressor.finish().expect("finished");
        let mut unpacked = Vec::new();
        decompress(&packed[..]).expect("recognised").read_to_end(&mut unpacked).expect("intact");
        assert_eq!(unpacked, input);
        packed
    }

    #[test]
    fn every_form_round_trips_and_one_thread_gives_the_same_bytes() {
        let input: Vec<u8> = (0..5_000_000u32).map(|i| (i / 7 % 251) as u8).collect();
        for compression in [Compression::None, Compression::GZIP, Compression::ZSTD] {
            for size in [0, 1, MEMBER - 1, MEMBER, MEMBER + 1, input.len()] {
                let many = round_trip(&input[..size], compression);
                let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a pool");
                assert_eq!(one.install(|| round_trip(&input[..size], compression)), many, "{compression:?} {size}");
            }
        }
    }

    #[test]
    fn a_truncated_stream_is_an_error() {
        for compression in [Compression::GZIP, Compression::ZSTD] {
            let packed = round_trip(&[7; 100_000], compression);
            let mut sink = Vec::new();
            let cut = &packed[..packed.len() - 5];
            assert!(decompress(cut).expect("recognised").read_to_end(&mut sink).is_err());
        }
        assert!(decompress(&b"BZh91AY"[..]).is_err());
    }
}
