//! Uncompressed header blocks.

use bytes::Bytes;

use super::{CodecError, MAX_HEADER_BLOCK};

/// Maximum number of names in a block.
const MAX_HEADERS: usize = 256;

/// Headers of a stream: lower-case names, each with one or more values, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Headers {
    entries: Vec<(String, Vec<Bytes>)>,
}

impl Headers {
    /// Creates an empty set of headers.
    #[must_use]
    pub const fn new() -> Self {
        Self { entries: Vec::new() }
    }

    /// Adds a value. The name is converted to lower case, as the draft requires.
    ///
    /// # Errors
    /// [`CodecError::Headers`] for a name that is empty or not visible ASCII, and for a value with
    /// a zero byte, which separates values on the wire.
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

    /// Returns the first value of a name, which is compared without case.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.entries
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .and_then(|(_, values)| values.first())
            .map(AsRef::as_ref)
    }

    /// Iterates over names and values. A name with several values is repeated.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.entries
            .iter()
            .flat_map(|(name, values)| values.iter().map(|value| (name.as_str(), value.as_ref())))
    }

    /// Returns the number of names.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns true if there are no headers.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Encodes the uncompressed block.
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

    /// Decodes an uncompressed block.
    ///
    /// # Errors
    /// [`CodecError::Headers`] for a wrong length, a repeated or invalid name, more than 256 names,
    /// or trailing bytes.
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
