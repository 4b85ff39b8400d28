//! Sparse files: which runs of a file the archive holds, in each of the four forms that GNU tar has written.

use super::header::malformed;
use super::pax::decimal;
use crate::error::Result;

/// Runs of data, offset and length.
pub(super) type Runs = Vec<(u64, u64)>;

/// What the extended header says about a sparse file (GNU tar manual, "Storing Sparse Files").
#[derive(Clone, Debug, Default)]
pub(super) struct SparseRecords {
    /// Versions 0.1 and 1.0: the file's own name, the header's being a stand-in for readers that know no better.
    pub(super) name: Option<Vec<u8>>,
    /// Versions 0.0 and 0.1: the map itself.
    runs: Option<Runs>,
    /// Version 0.0: an offset whose length is still to come.
    offset: Option<u64>,
    size: Option<u64>,
    major: Option<u64>,
    minor: Option<u64>,
}

/// Where the map of a sparse file is.
pub(super) enum Map {
    /// In the header.
    Known(Runs, u64),
    /// In front of the content (version 1.0), of a file of this size.
    InContent(u64),
}

impl SparseRecords {
    /// Takes a record whose key began with `GNU.sparse.`.
    pub(super) fn take(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let number = || decimal(value).ok_or_else(|| malformed("a malformed sparse map"));
        match key {
            b"name" => self.name = Some(value.to_vec()),
            b"size" | b"realsize" => self.size = Some(number()?),
            b"major" => self.major = Some(number()?),
            b"minor" => self.minor = Some(number()?),
            b"offset" => self.offset = Some(number()?),
            b"numbytes" => {
                let offset = self.offset.take().ok_or_else(|| malformed("a malformed sparse map"))?;
                self.runs.get_or_insert_default().push((offset, number()?));
            }
            b"map" => self.runs = Some(parse_list(value)?),
            // `numblocks` repeats what the map says.
            _ => {}
        }
        Ok(())
    }

    /// The map; `None` where the file is not sparse.
    ///
    /// # Errors
    /// A form of a version that does not exist, or without the file's size.
    pub(super) fn map(&mut self) -> Result<Option<Map>> {
        let size = || self.size.ok_or_else(|| malformed("a sparse file without its size"));
        match (self.major, self.minor) {
            (Some(1), Some(0)) => Ok(Some(Map::InContent(size()?))),
            (None | Some(0), _) => match self.runs.take() {
                Some(runs) => Ok(Some(Map::Known(runs, size()?))),
                None => Ok(None),
            },
            _ => Err(malformed("a sparse file of an unknown version")),
        }
    }
}

fn parse_list(value: &[u8]) -> Result<Runs> {
    if value.is_empty() {
        return Ok(Vec::new());
    }
    let numbers: Option<Vec<u64>> = value.split(|byte| *byte == b',').map(decimal).collect();
    let numbers =
        numbers.filter(|numbers| numbers.len() % 2 == 0).ok_or_else(|| malformed("a malformed sparse map"))?;
    Ok(numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
}

/// A map in front of the content, read line by line: the number of runs, then offset and length of each.
#[derive(Default)]
pub(super) struct MapReader {
    line: Vec<u8>,
    expected: Option<u64>,
    numbers: Vec<u64>,
}

impl MapReader {
    /// Takes a block; whether the map is complete.
    pub(super) fn take(&mut self, block: &[u8]) -> Result<bool> {
        for byte in block {
            if self.complete() {
                break;
            }
            if *byte != b'\n' {
                self.line.push(*byte);
                continue;
            }
            let number = decimal(&self.line).ok_or_else(|| malformed("a malformed sparse map"))?;
            self.line.clear();
            match self.expected {
                None => self.expected = Some(number),
                Some(_) => self.numbers.push(number),
            }
        }
        // No number is longer.
        if self.line.len() > 20 { Err(malformed("a malformed sparse map")) } else { Ok(self.complete()) }
    }

    fn complete(&self) -> bool {
        self.expected.is_some_and(|runs| self.numbers.len() as u64 / 2 >= runs)
    }

    pub(super) fn runs(self) -> Runs {
        self.numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect()
    }
}

/// Refuses a map that goes back, passes the end of the file, or covers more or less than the content.
pub(super) fn check(runs: &Runs, size: u64, stored: u64) -> Result<()> {
    let (mut end, mut covered) = (0u64, 0u64);
    for (offset, length) in runs {
        let next = offset.checked_add(*length).filter(|next| *offset >= end && *next <= size);
        end = next.ok_or_else(|| malformed("a sparse map that does not fit its file"))?;
        covered += length;
    }
    if covered != stored {
        return Err(malformed(&format!("a sparse map of {covered} bytes for {stored} bytes of content")));
    }
    Ok(())
}
