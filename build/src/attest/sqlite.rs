//! As much of SQLite's file format as it takes to read the blobs of one table ("Database File Format", sqlite.org).
//!
//! Read-only, of a file that nobody writes: a write-ahead log beside it is not looked at, for an image is made of what
//! was finished.

/// Deepest tree of pages that is followed: more than any file of 2^32 pages has.
const DEPTH: u32 = 40;

struct Database<'a> {
    bytes: &'a [u8],
    page: usize,
    /// Bytes of a page that are used.
    usable: usize,
    /// Pages that may still be read: each is part of one tree only.
    left: std::cell::Cell<usize>,
}

/// The last blob of every row of `table`; `None` where this is no such database, or a damaged one.
pub(super) fn blobs(bytes: &[u8], table: &str) -> Option<Vec<Vec<u8>>> {
    if !bytes.starts_with(b"SQLite format 3\0") {
        return None;
    }
    let page = match usize::from(u16::from_be_bytes(bytes.get(16..18)?.try_into().ok()?)) {
        1 => 65_536,
        size if size >= 512 => size,
        _ => return None,
    };
    let usable = page.checked_sub(usize::from(*bytes.get(20)?)).filter(|usable| *usable >= 480)?;
    let database = Database { bytes, page, usable, left: (2 * bytes.len() / page + 2).into() };
    let mut root = None;
    database.rows(1, DEPTH, &mut |row| {
        // The schema: kind, name, table, first page, text.
        let columns = columns(row)?;
        if columns.first()?.1 == b"table" && columns.get(1)?.1 == table.as_bytes() {
            root = columns.get(3).map(|(_, bytes)| integer(bytes));
        }
        Some(())
    })?;
    let mut found = Vec::new();
    database.rows(usize::try_from(root?).ok()?, DEPTH, &mut |row| {
        let columns = columns(row)?;
        let blob = columns.iter().rev().find(|(kind, _)| *kind >= 12 && kind % 2 == 0);
        found.extend(blob.map(|(_, bytes)| bytes.to_vec()));
        Some(())
    })?;
    Some(found)
}

impl Database<'_> {
    fn page(&self, number: usize) -> Option<&[u8]> {
        self.left.set(self.left.get().checked_sub(1)?);
        let start = number.checked_sub(1)?.checked_mul(self.page)?;
        self.bytes.get(start..start.checked_add(self.page)?)
    }

    /// Gives every row of the tree at `number` to `take`.
    fn rows(&self, number: usize, depth: u32, take: &mut dyn FnMut(&[u8]) -> Option<()>) -> Option<()> {
        let depth = depth.checked_sub(1)?;
        let page = self.page(number)?;
        // The first page begins with the file's own header.
        let header = if number == 1 { 100 } else { 0 };
        let kind = *page.get(header)?;
        let cells = usize::from(short(page, header + 3)?);
        let pointers = header + if kind == 5 { 12 } else { 8 };
        for cell in 0..cells {
            let at = usize::from(short(page, pointers + 2 * cell)?);
            match kind {
                5 => self.rows(usize::try_from(long(page, at)?).ok()?, depth, take)?,
                13 => take(&self.payload(page, at)?)?,
                _ => return None,
            }
        }
        if kind == 5 {
            self.rows(usize::try_from(long(page, header + 8)?).ok()?, depth, take)?;
        }
        Some(())
    }

    /// The row in the cell at `at`, what overflows the page included.
    fn payload(&self, page: &[u8], at: usize) -> Option<Vec<u8>> {
        let (size, at) = varint(page, at)?;
        let (_, at) = varint(page, at)?;
        let size = usize::try_from(size).ok().filter(|size| *size <= self.bytes.len())?;
        let most = self.usable - 35;
        if size <= most {
            return Some(page.get(at..at.checked_add(size)?)?.to_vec());
        }
        let least = (self.usable - 12) * 32 / 255 - 23;
        let local = least + (size - least) % (self.usable - 4);
        let local = if local <= most { local } else { least };
        let mut row = page.get(at..at.checked_add(local)?)?.to_vec();
        let mut next = long(page, at + local)?;
        while row.len() < size {
            let page = self.page(usize::try_from(next).ok()?)?;
            next = long(page, 0)?;
            let part = (size - row.len()).min(self.usable - 4);
            row.extend_from_slice(page.get(4..4 + part)?);
        }
        Some(row)
    }
}

/// The columns of a row: serial type and bytes.
fn columns(row: &[u8]) -> Option<Vec<(u64, &[u8])>> {
    let (header, mut at) = varint(row, 0)?;
    let mut content = usize::try_from(header).ok()?;
    let end = content;
    let mut columns = Vec::new();
    while at < end {
        let (kind, next) = varint(row, at)?;
        at = next;
        let size = match kind {
            0 | 8 | 9 => 0,
            1..=4 => usize::try_from(kind).ok()?,
            5 => 6,
            6 | 7 => 8,
            10 | 11 => return None,
            _ => usize::try_from((kind - 12) / 2).ok()?,
        };
        columns.push((kind, row.get(content..content.checked_add(size)?)?));
        content += size;
    }
    Some(columns)
}

fn integer(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// Seven bits a byte, the ninth byte whole; the number, and where it ends.
fn varint(bytes: &[u8], at: usize) -> Option<(u64, usize)> {
    let mut number = 0;
    for (count, byte) in bytes.get(at..)?.iter().take(9).enumerate() {
        if count == 8 {
            return Some((number << 8 | u64::from(*byte), at + 9));
        }
        number = number << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Some((number, at + count + 1));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attest::rpm;

    const PAGE: usize = 512;

    fn put(number: usize) -> Vec<u8> {
        // Two bytes are enough here.
        vec![0x80 | u8::try_from(number >> 7).expect("small"), u8::try_from(number & 0x7f).expect("small")]
    }

    fn row(columns: &[(usize, &[u8])]) -> Vec<u8> {
        let kinds: Vec<u8> = columns.iter().flat_map(|(kind, _)| put(*kind)).collect();
        let mut row = vec![u8::try_from(kinds.len() + 1).expect("small")];
        row.extend(kinds);
        columns.iter().for_each(|(_, bytes)| row.extend_from_slice(bytes));
        row
    }

    fn text(text: &str) -> (usize, &[u8]) {
        (13 + 2 * text.len(), text.as_bytes())
    }

    /// A leaf page with one row, of which `local` bytes fit.
    fn leaf(header: usize, row: &[u8], local: usize, overflow: Option<u32>) -> Vec<u8> {
        let mut page = vec![0; PAGE];
        let mut cell = [put(row.len()), put(1), row[..local].to_vec()].concat();
        cell.extend(overflow.into_iter().flat_map(u32::to_be_bytes));
        let at = PAGE - cell.len();
        page[at..].copy_from_slice(&cell);
        page[header] = 13;
        page[header + 3..header + 5].copy_from_slice(&1_u16.to_be_bytes());
        page[header + 8..header + 10].copy_from_slice(&u16::try_from(at).expect("small").to_be_bytes());
        page
    }

    fn database(blob: &[u8]) -> Vec<u8> {
        let schema = row(&[text("table"), text("Packages"), text("Packages"), (1, &[2]), text("CREATE")]);
        let mut first = leaf(100, &schema, schema.len(), None);
        first[..16].copy_from_slice(b"SQLite format 3\0");
        first[16..18].copy_from_slice(&u16::try_from(PAGE).expect("small").to_be_bytes());
        let packages = row(&[(0, &[]), (12 + 2 * blob.len(), blob)]);
        let least = (PAGE - 12) * 32 / 255 - 23;
        let fits = packages.len() <= PAGE - 35;
        let local = least + packages.len().saturating_sub(least) % (PAGE - 4);
        let local = if fits {
            packages.len()
        } else if local <= PAGE - 35 {
            local
        } else {
            least
        };
        let mut file = [first, leaf(0, &packages, local, (!fits).then_some(3))].concat();
        let mut rest = &packages[local..];
        let mut next = 4_u32;
        while !rest.is_empty() {
            let (part, later) = rest.split_at(rest.len().min(PAGE - 4));
            let mut page = if later.is_empty() { 0_u32 } else { next }.to_be_bytes().to_vec();
            page.extend_from_slice(part);
            page.resize(PAGE, 0);
            file.extend(page);
            (rest, next) = (later, next + 1);
        }
        file
    }

    #[test]
    fn blobs_are_read_whole() {
        for size in [0, 1, 100, 400, 470, 480, 600, 1500, 5000] {
            let blob: Vec<u8> = (0..size).map(|byte| u8::try_from(byte % 251).expect("small")).collect();
            assert_eq!(blobs(&database(&blob), "Packages"), Some(vec![blob]), "{size}");
        }
        assert_eq!(blobs(&database(b"x"), "Other"), None);
    }

    #[test]
    fn damage_is_no_database() {
        let header = rpm::tests::header(&[(1000, "bash"), (1001, "5"), (1002, "1")]);
        let good = database(&[&header[..], &[0; 900]].concat());
        assert!(rpm::package(&blobs(&good, "Packages").expect("a database")[0]).is_some());
        for at in 0..good.len() {
            for value in [0, 1, 5, 13, 0xff] {
                let mut damaged = good.clone();
                damaged[at] = value;
                blobs(&damaged, "Packages");
            }
        }
        for length in (0..good.len()).step_by(7) {
            blobs(&good[..length], "Packages");
        }
    }
}
