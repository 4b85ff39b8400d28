//! Archives as no honest program writes them, block by block.

/// An archive in the making.
#[derive(Clone, Default)]
pub(super) struct Tar(pub(super) Vec<u8>);

impl Tar {
    /// An entry of a type by its letter, with mode 0777; content only where the type has any.
    pub(super) fn put(self, kind: u8, path: &str, text: &str) -> Self {
        match kind {
            b'0' => self.raw(kind, path.as_bytes(), b"", text.len() as u64, text.as_bytes()),
            _ => self.raw(kind, path.as_bytes(), text.as_bytes(), 0, b""),
        }
    }

    pub(super) fn file(self, path: &str, text: &str) -> Self {
        self.put(b'0', path, text)
    }

    pub(super) fn dir(self, path: &str) -> Self {
        self.put(b'5', path, "")
    }

    pub(super) fn symlink(self, path: &str, target: &str) -> Self {
        self.put(b'2', path, target)
    }

    pub(super) fn hardlink(self, path: &str, target: &str) -> Self {
        self.put(b'1', path, target)
    }

    /// An entry whose header says `size`, followed by `content`.
    pub(super) fn raw(mut self, kind: u8, path: &[u8], link: &[u8], size: u64, content: &[u8]) -> Self {
        self.0.extend(block(kind, path, link, size, |_| {}));
        self.content(content)
    }

    /// The same with a header that is changed before its checksum is taken.
    pub(super) fn bent(mut self, kind: u8, path: &str, size: u64, bend: impl FnOnce(&mut [u8; 512])) -> Self {
        self.0.extend(block(kind, path.as_bytes(), b"", size, bend));
        self
    }

    /// Content with the padding after it.
    pub(super) fn content(mut self, content: &[u8]) -> Self {
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    /// An extended header.
    pub(super) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut bytes = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let length = (1..).map(|digits| rest + digits).find(|length| length.to_string().len() + rest == *length);
            bytes.extend(format!("{} {key}=", length.expect("some number of digits fits")).bytes());
            bytes.extend_from_slice(value);
            bytes.push(b'\n');
        }
        self.raw(b'x', b"extended", b"", bytes.len() as u64, &bytes)
    }

    /// An archive inside this one, as content of whatever precedes it.
    pub(super) fn inner(path: &str) -> Vec<u8> {
        Self::default().file(path, "smuggled").0
    }
}

fn block(kind: u8, path: &[u8], link: &[u8], size: u64, bend: impl FnOnce(&mut [u8; 512])) -> [u8; 512] {
    let mut block = [0; 512];
    let mut text = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    text(0, &path[..path.len().min(100)]);
    text(100, b"0000777\0");
    text(108, b"0000000\0");
    text(116, b"0000000\0");
    text(124, format!("{size:011o}\0").as_bytes());
    text(136, b"14524770400\0");
    text(157, &link[..link.len().min(100)]);
    text(257, b"ustar\x0000");
    block[156] = kind;
    bend(&mut block);
    seal(&mut block);
    block
}

fn seal(block: &mut [u8; 512]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}
