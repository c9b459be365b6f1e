//! Whether a tar stream is whole.

/// The unit of a tar stream.
const BLOCK: usize = 512;

/// How much of a pax header is read. Longer ones come from nobody who writes sizes.
const PAX_MAX: usize = 1 << 20;

/// Follows a tar stream from header to header, to its end.
///
/// A stream that was cut off may end in zeros, which are the content of a file. Only the sizes in the
/// headers show where the two blocks of zeros stand that end it.
#[derive(Debug, Default)]
pub struct TarEnd {
    /// The part of a header that has come.
    header: Vec<u8>,
    /// How much comes before the next header.
    content: u64,
    /// The content of a pax header.
    pax: Option<Vec<u8>>,
    /// The size of the next entry, of a pax header.
    size: Option<u64>,
    zero_blocks: u8,
    malformed: bool,
}

impl TarEnd {
    /// Takes the next bytes.
    pub fn push(&mut self, mut piece: &[u8]) {
        while !piece.is_empty() && !self.malformed && self.zero_blocks < 2 {
            if self.content > 0 {
                let length = usize::try_from(self.content).unwrap_or(usize::MAX).min(piece.len());
                let (content, rest) = piece.split_at(length);
                if let Some(pax) = &mut self.pax {
                    pax.extend_from_slice(content);
                }
                self.content -= length as u64;
                piece = rest;
                if self.content == 0
                    && let Some(pax) = self.pax.take()
                {
                    self.size = size_of_pax(&pax).or(self.size);
                }
                continue;
            }
            let length = (BLOCK - self.header.len()).min(piece.len());
            let (header, rest) = piece.split_at(length);
            self.header.extend_from_slice(header);
            piece = rest;
            if self.header.len() == BLOCK {
                let header = std::mem::take(&mut self.header);
                self.entry(&header);
            }
        }
    }

    fn entry(&mut self, header: &[u8]) {
        if header.iter().all(|byte| *byte == 0) {
            self.zero_blocks += 1;
            return;
        }
        self.zero_blocks = 0;
        let Some(size) = number(&header[124..136]).filter(|_| has_checksum(header)) else {
            self.malformed = true;
            return;
        };
        let size = match header[156] {
            // Links, devices, folders and FIFOs have no content, whatever their size is.
            b'1'..=b'6' => {
                self.size = None;
                0
            }
            // What describes the next entry has a size of its own.
            b'x' | b'g' | b'L' | b'K' => size,
            _ => self.size.take().unwrap_or(size),
        };
        if header[156] == b'x' {
            if size > PAX_MAX as u64 {
                self.malformed = true;
                return;
            }
            self.pax = Some(Vec::new());
        }
        match size.checked_next_multiple_of(BLOCK as u64) {
            Some(content) => self.content = content,
            None => self.malformed = true,
        }
        if self.content == 0 {
            self.pax = None;
        }
    }

    /// Returns whether the end of the archive has come, after all that its headers announce.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.zero_blocks >= 2 && !self.malformed
    }
}

/// Reads a number of a header: octal, or binary if the first bit is set.
fn number(field: &[u8]) -> Option<u64> {
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

fn has_checksum(header: &[u8]) -> bool {
    let sum = header.iter().enumerate().map(|(at, byte)| match at {
        148..156 => u64::from(b' '),
        _ => u64::from(*byte),
    });
    let sum: u64 = sum.sum();
    number(&header[148..156]) == Some(sum)
}

/// Returns the size in a pax header: records `LENGTH KEY=VALUE`, each with a line end.
fn size_of_pax(mut pax: &[u8]) -> Option<u64> {
    let mut size = None;
    while let Some(space) = pax.iter().position(|byte| *byte == b' ') {
        let length: usize = str::from_utf8(&pax[..space]).ok()?.parse().ok()?;
        let record = pax.get(space + 1..length)?;
        if let Some(value) = record.strip_prefix(b"size=") {
            size = str::from_utf8(value).ok()?.trim_end().parse().ok();
        }
        pax = pax.get(length..)?;
    }
    size
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An entry with this type and size.
    fn entry(kind: u8, size: u64, content: &[u8]) -> Vec<u8> {
        let mut header = vec![0; BLOCK];
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
        header.resize(header.len().next_multiple_of(BLOCK), 0);
        header
    }

    fn is_whole(tar: &[u8], piece: usize) -> bool {
        let mut end = TarEnd::default();
        tar.chunks(piece).for_each(|piece| end.push(piece));
        end.is_whole()
    }

    #[test]
    fn archive_is_whole_only_with_all_that_its_headers_announce() {
        let end = vec![0; 2 * BLOCK];
        let file = entry(b'0', 1500, &[7; 1500]);
        let zeros = entry(b'0', 5000, &[0; 5000]);
        let folder = entry(b'5', 4096, &[]);
        let pax = entry(b'x', 13, b"13 size=5000\n");
        let of_pax = [pax, entry(b'0', 0, &[0; 5000])].concat();
        let large = entry(b'0', 1 << 33, &[]);
        for (name, tar, whole) in [
            ("empty", end.clone(), true),
            ("files", [&file[..], &zeros, &folder, &of_pax, &end].concat(), true),
            ("padded", [&file[..], &end, &[0; 9000]].concat(), true),
            ("no end", file.clone(), false),
            ("half an end", [&file[..], &[0; BLOCK]].concat(), false),
            // The file has shrunk, and what came of it are zeros.
            ("shrunk", zeros[..3 * BLOCK].to_vec(), false),
            ("shrunk and ended", [&entry(b'0', 5000, &[])[..], &end].concat(), false),
            ("shrunk by pax", of_pax[..of_pax.len() - BLOCK].to_vec(), false),
            ("large", [&large[..], &[0; 9000]].concat(), false),
            ("no tar", vec![b'x'; 4 * BLOCK], false),
            ("nothing", Vec::new(), false),
        ] {
            for piece in [1, 100, BLOCK, 1 << 20] {
                assert_eq!(is_whole(&tar, piece), whole, "{name} in pieces of {piece}");
            }
        }
    }
}
