//! Header blocks, as they are before compression.

use bytes::Bytes;

use super::{CodecError, MAX_HEADER_BLOCK};

/// How many names a block may have.
const MAX_HEADERS: usize = 256;

/// The headers of a stream: names in lower case, each with one or more values, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Headers {
    entries: Vec<(String, Vec<Bytes>)>,
}

impl Headers {
    /// No headers.
    #[must_use]
    pub const fn new() -> Self {
        Self { entries: Vec::new() }
    }

    /// Adds a value; the name is put into lower case, which the draft demands.
    ///
    /// # Errors
    /// [`CodecError::Headers`] for a name that is empty or not made of visible ASCII, and for a
    /// value that contains a zero byte, which separates values on the wire.
    pub fn append(&mut self, name: &str, value: impl Into<Bytes>) -> Result<(), CodecError> {
        let value = value.into();
        if value.contains(&0) {
            return Err(CodecError::Headers);
        }
        let name = normalised(name.as_bytes())?;
        match self.entries.iter_mut().find(|(known, _)| *known == name) {
            Some((_, values)) => values.push(value),
            None => self.entries.push((name, vec![value])),
        }
        Ok(())
    }

    /// The first value of a name, which is compared without regard to case.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.entries
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .and_then(|(_, values)| values.first())
            .map(AsRef::as_ref)
    }

    /// All names with their values. A name with several values comes several times.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.entries
            .iter()
            .flat_map(|(name, values)| values.iter().map(|value| (name.as_str(), value.as_ref())))
    }

    /// How many names there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The block as it goes into the compression.
    ///
    /// # Errors
    /// [`CodecError::TooLarge`] beyond [`MAX_HEADER_BLOCK`] or 256 names.
    pub fn to_block(&self) -> Result<Vec<u8>, CodecError> {
        let mut block = Vec::new();
        push_length(&mut block, self.entries.len())?;
        for (name, values) in &self.entries {
            push_length(&mut block, name.len())?;
            block.extend_from_slice(name.as_bytes());
            let separators = values.len().saturating_sub(1);
            push_length(&mut block, values.iter().map(Bytes::len).sum::<usize>() + separators)?;
            for (index, value) in values.iter().enumerate() {
                if index > 0 {
                    block.push(0);
                }
                block.extend_from_slice(value);
            }
        }
        if block.len() > MAX_HEADER_BLOCK || self.entries.len() > MAX_HEADERS {
            return Err(CodecError::TooLarge(block.len()));
        }
        Ok(block)
    }

    /// Reads a block as it comes out of the compression.
    ///
    /// # Errors
    /// [`CodecError::Headers`] when lengths do not fit, a name comes twice or is no name, there are
    /// more than 256 names, or bytes are left over.
    pub fn from_block(mut block: &[u8]) -> Result<Self, CodecError> {
        let count = take_length(&mut block)?;
        if count > MAX_HEADERS {
            return Err(CodecError::Headers);
        }
        let mut headers = Self::new();
        for _ in 0..count {
            let name = normalised(take_string(&mut block)?)?;
            let values = take_string(&mut block)?;
            if headers.entries.iter().any(|(known, _)| *known == name) {
                return Err(CodecError::Headers);
            }
            let values = values.split(|byte| *byte == 0).map(Bytes::copy_from_slice).collect();
            headers.entries.push((name, values));
        }
        if block.is_empty() { Ok(headers) } else { Err(CodecError::Headers) }
    }
}

fn normalised(name: &[u8]) -> Result<String, CodecError> {
    if name.is_empty() || !name.iter().all(u8::is_ascii_graphic) {
        return Err(CodecError::Headers);
    }
    Ok(name.iter().map(|byte| char::from(byte.to_ascii_lowercase())).collect())
}

fn push_length(block: &mut Vec<u8>, length: usize) -> Result<(), CodecError> {
    let length = u32::try_from(length).map_err(|_| CodecError::TooLarge(length))?;
    block.extend_from_slice(&length.to_be_bytes());
    Ok(())
}

fn take_length(block: &mut &[u8]) -> Result<usize, CodecError> {
    let (length, rest) = block.split_first_chunk().ok_or(CodecError::Headers)?;
    *block = rest;
    usize::try_from(u32::from_be_bytes(*length)).map_err(|_| CodecError::Headers)
}

fn take_string<'a>(block: &mut &'a [u8]) -> Result<&'a [u8], CodecError> {
    let length = take_length(block)?;
    let (string, rest) = block.split_at_checked(length).ok_or(CodecError::Headers)?;
    *block = rest;
    Ok(string)
}
