//! Streaming inspection of tar archives: completeness, and owners that a simple tar cannot read.

use bytes::Bytes;

/// Size in bytes of a tar block.
const BLOCK_SIZE: usize = 512;

/// Maximum size in bytes of a pax header. No writer of sizes and owners needs more.
const PAX_SIZE_MAX: usize = 1 << 20;

/// Tracks the headers of a tar stream up to the end of the archive.
///
/// A stream that was cut off may end in zeros that are file content. Only the sizes in the headers
/// show if two zero blocks are the end of the archive.
#[derive(Debug, Default)]
pub struct TarEnd {
    /// Bytes of an incomplete header.
    header: Vec<u8>,
    /// Number of bytes before the next header.
    content: u64,
    /// Content of a pax header.
    pax: Option<Vec<u8>>,
    /// Values of a pax header for the next entry.
    next: PaxHeader,
    zero_blocks: u8,
    malformed: bool,
}

/// The fields of a pax header that are used.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct PaxHeader {
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
}

impl TarEnd {
    /// Processes the next bytes.
    pub fn push(&mut self, piece: &[u8]) {
        self.walk(piece, |_| {});
    }

    /// Processes the next bytes and passes them on. A header is passed on as a whole, with its
    /// owners.
    fn walk(&mut self, mut piece: &[u8], mut pass: impl FnMut(&[u8])) {
        while !piece.is_empty() && !self.malformed && self.zero_blocks < 2 {
            if self.content > 0 {
                let length = usize::try_from(self.content).unwrap_or(usize::MAX).min(piece.len());
                let (content, rest) = piece.split_at(length);
                if let Some(pax) = &mut self.pax {
                    pax.extend_from_slice(content);
                }
                pass(content);
                self.content -= length as u64;
                piece = rest;
                if self.content == 0
                    && let Some(pax) = self.pax.take()
                {
                    self.next = PaxHeader::read(&pax).unwrap_or_default();
                }
                continue;
            }
            let length = (BLOCK_SIZE - self.header.len()).min(piece.len());
            let (header, rest) = piece.split_at(length);
            self.header.extend_from_slice(header);
            piece = rest;
            if self.header.len() == BLOCK_SIZE {
                let mut header = std::mem::take(&mut self.header);
                self.entry(&mut header);
                pass(&header);
            }
        }
        pass(piece);
    }

    fn entry(&mut self, header: &mut [u8]) {
        if header.iter().all(|byte| *byte == 0) {
            self.zero_blocks += 1;
            return;
        }
        self.zero_blocks = 0;
        let Some(size) = parse_number(&header[124..136]).filter(|_| has_checksum(header)) else {
            self.malformed = true;
            return;
        };
        let size = match header[156] {
            // Headers that describe the next entry have a size of their own.
            b'x' | b'g' | b'L' | b'K' => size,
            kind => {
                let next = std::mem::take(&mut self.next);
                next.set_owners(header);
                match kind {
                    // Links, devices, directories and FIFOs have no content, independent of their
                    // size field.
                    b'1'..=b'6' => 0,
                    _ => next.size.unwrap_or(size),
                }
            }
        };
        if header[156] == b'x' {
            if size > PAX_SIZE_MAX as u64 {
                self.malformed = true;
                return;
            }
            self.pax = Some(Vec::new());
        }
        match size.checked_next_multiple_of(BLOCK_SIZE as u64) {
            Some(content) => self.content = content,
            None => self.malformed = true,
        }
        if self.content == 0 {
            self.pax = None;
        }
    }

    /// Returns `true` if the archive is complete: its end was seen after the content of all
    /// entries.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.zero_blocks >= 2 && !self.malformed
    }
}

/// Copies owners from pax headers into the headers of their entries.
///
/// An owner above [`OCTAL_OWNER_MAX`] is stored only in a pax header, which busybox tar ignores, so that
/// the unpacked file belongs to root. All tar implementations, including busybox, read binary
/// numbers in the GNU format.
#[derive(Debug, Default)]
pub(crate) struct TarOwners(TarEnd);

impl TarOwners {
    /// Processes the next bytes of a stream and returns their replacement.
    pub(crate) fn rewrite(&mut self, piece: Bytes) -> Bytes {
        if piece.len() as u64 <= self.0.content && self.0.pax.is_none() {
            self.0.push(&piece);
            return piece;
        }
        let mut rewritten = Vec::with_capacity(piece.len() + BLOCK_SIZE);
        self.0.walk(&piece, |bytes| rewritten.extend_from_slice(bytes));
        rewritten.into()
    }

    /// Returns the buffered bytes of a stream that ends within a header.
    pub(crate) fn rest(self) -> Bytes {
        self.0.header.into()
    }
}

/// Largest owner that fits into a header in octal digits.
const OCTAL_OWNER_MAX: u64 = 0o7_777_777;

impl PaxHeader {
    /// Parses records of the form `LENGTH KEY=VALUE`, each with a line end.
    fn read(mut pax: &[u8]) -> Option<Self> {
        let mut header = Self::default();
        while let Some(space) = pax.iter().position(|byte| *byte == b' ') {
            let length: usize = str::from_utf8(&pax[..space]).ok()?.parse().ok()?;
            let record = pax.get(space + 1..length)?;
            let number = |key: &[u8]| {
                let value = record.strip_prefix(key)?;
                str::from_utf8(value).ok()?.trim_end().parse().ok()
            };
            header.size = number(b"size=").or(header.size);
            header.uid = number(b"uid=").or(header.uid);
            header.gid = number(b"gid=").or(header.gid);
            pax = pax.get(length..)?;
        }
        Some(header)
    }

    /// Writes large owners in binary.
    fn set_owners(self, header: &mut [u8]) {
        let mut is_changed = false;
        for (owner, field) in [(self.uid, 108), (self.gid, 116)] {
            if let Some(owner) =
                owner.filter(|owner| (OCTAL_OWNER_MAX + 1..1 << 56).contains(owner))
            {
                header[field..field + 8].copy_from_slice(&(owner | 1 << 63).to_be_bytes());
                is_changed = true;
            }
        }
        if is_changed {
            let sum = format!("{:06o}\0 ", checksum(header));
            header[148..156].copy_from_slice(sum.as_bytes());
        }
    }
}

/// Parses a number of a header: octal, or binary if the first bit is set.
fn parse_number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let mut bytes = field.iter().enumerate().map(|(at, byte)| match at {
            0 => byte & 0x7f,
            _ => *byte,
        });
        return bytes
            .try_fold(0_u64, |sum, byte| sum.checked_mul(256).map(|sum| sum | u64::from(byte)));
    }
    let text = str::from_utf8(field).ok()?;
    let text = text.trim_matches([' ', '\0']);
    if text.is_empty() { Some(0) } else { u64::from_str_radix(text, 8).ok() }
}

/// Returns the checksum of a header, computed with spaces in the checksum field.
fn checksum(header: &[u8]) -> u64 {
    let bytes = header.iter().enumerate().map(|(at, byte)| match at {
        148..156 => u64::from(b' '),
        _ => u64::from(*byte),
    });
    bytes.sum()
}

fn has_checksum(header: &[u8]) -> bool {
    parse_number(&header[148..156]) == Some(checksum(header))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Creates an entry with this type and size.
    fn entry(kind: u8, size: u64, content: &[u8]) -> Vec<u8> {
        let mut header = vec![0; BLOCK_SIZE];
        header[..1].copy_from_slice(b"f");
        if size < 1 << 30 {
            header[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
        } else {
            header[124] = 0x80;
            header[128..136].copy_from_slice(&size.to_be_bytes());
        }
        header[156] = kind;
        header[148..156].fill(b' ');
        let sum: u64 = header.iter().map(|byte| u64::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        header.extend_from_slice(content);
        header.resize(header.len().next_multiple_of(BLOCK_SIZE), 0);
        header
    }

    fn is_whole(tar: &[u8], piece: usize) -> bool {
        let mut end = TarEnd::default();
        tar.chunks(piece).for_each(|piece| end.push(piece));
        end.is_whole()
    }

    #[test]
    fn is_whole_requires_all_announced_content() {
        let end = vec![0; 2 * BLOCK_SIZE];
        let file = entry(b'0', 1500, &[7; 1500]);
        let zeros = entry(b'0', 5000, &[0; 5000]);
        let directory = entry(b'5', 4096, &[]);
        let pax = entry(b'x', 13, b"13 size=5000\n");
        let of_pax = [pax, entry(b'0', 0, &[0; 5000])].concat();
        let large = entry(b'0', 1 << 33, &[]);
        for (name, tar, whole) in [
            ("empty", end.clone(), true),
            ("files", [&file[..], &zeros, &directory, &of_pax, &end].concat(), true),
            ("padded", [&file[..], &end, &[0; 9000]].concat(), true),
            ("no end", file.clone(), false),
            ("half an end", [&file[..], &[0; BLOCK_SIZE]].concat(), false),
            // The file has shrunk, and its remaining content is zeros.
            ("shrunk", zeros[..3 * BLOCK_SIZE].to_vec(), false),
            ("shrunk and ended", [&entry(b'0', 5000, &[])[..], &end].concat(), false),
            ("shrunk by pax", of_pax[..of_pax.len() - BLOCK_SIZE].to_vec(), false),
            ("large", [&large[..], &[0; 9000]].concat(), false),
            ("no tar", vec![b'x'; 4 * BLOCK_SIZE], false),
            ("nothing", Vec::new(), false),
        ] {
            for piece in [1, 100, BLOCK_SIZE, 1 << 20] {
                assert_eq!(is_whole(&tar, piece), whole, "{name} in pieces of {piece}");
            }
        }
    }

    fn rewritten(tar: &[u8], piece: usize) -> Vec<u8> {
        let mut owners = TarOwners::default();
        let mut all = Vec::new();
        for piece in tar.chunks(piece) {
            all.extend_from_slice(&owners.rewrite(Bytes::copy_from_slice(piece)));
        }
        all.extend_from_slice(&owners.rest());
        all
    }

    #[test]
    fn rewrite_copies_large_pax_owners_into_header() {
        let end = vec![0; 2 * BLOCK_SIZE];
        let pax = |records: &str| entry(b'x', records.len() as u64, records.as_bytes());
        let file = entry(b'0', 700, &[7; 700]);
        let tar = [
            &pax("15 uid=3000000\n18 gid=4294967294\n")[..],
            &entry(b'5', 0, &[]),
            &pax("15 uid=3000000\n")[..],
            &file,
            &pax("12 uid=1000\n")[..],
            &file,
            &file,
            &end,
        ]
        .concat();
        for piece in [1, 100, BLOCK_SIZE, 1 << 20] {
            let rewritten = rewritten(&tar, piece);
            assert_eq!(rewritten.len(), tar.len());
            let headers: Vec<_> =
                rewritten.chunks(BLOCK_SIZE).filter(|block| block.starts_with(b"f\0")).collect();
            let owners =
                |header: &&[u8]| (parse_number(&header[108..116]), parse_number(&header[116..124]));
            let owners: Vec<_> = headers
                .iter()
                .filter(|header| header[156] != b'x')
                .inspect(|header| assert!(has_checksum(header)))
                .map(owners)
                .collect();
            let (none, large) = (Some(0), Some(3_000_000));
            let all = [(large, Some(4_294_967_294)), (large, none), (none, none), (none, none)];
            assert_eq!(owners, all);
            assert!(is_whole(&rewritten, piece), "in pieces of {piece}");
            let contents = |tar: &[u8]| tar.iter().filter(|byte| **byte == 7).count();
            assert_eq!(contents(&rewritten), contents(&tar));
        }
    }

    #[test]
    fn rewrite_without_large_owners_is_identity() {
        let end = vec![0; 2 * BLOCK_SIZE];
        let file = entry(b'0', 1500, &[7; 1500]);
        for tar in [[&file[..], &end, b"what comes after"].concat(), b"no tar".repeat(300)] {
            for piece in [1, 100, BLOCK_SIZE, 1 << 20] {
                assert_eq!(rewritten(&tar, piece), tar);
            }
        }
    }
}
