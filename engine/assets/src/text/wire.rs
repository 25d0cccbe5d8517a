//! The upload form of text assets: a magic line, then the fields in order, little-endian, lengths before contents.
//!
//! There is one way to write any assets, so that the digest of the bytes is the identity of the assets. A change of the form
//! changes the number in the magic line.

use std::path::Path;

use crate::error::{AssetsError, ErrorKind};
use crate::text::{GgufTokenizer, MAX_TOKENS, MAX_UPLOAD_BYTES, SpecialToken, TextAssets, TokenKind, TokenizerSource};

const MAGIC: &[u8] = b"trackside text assets 2\n";
const HUGGING_FACE: u8 = 0;
const GGUF: u8 = 1;

pub(super) fn write(assets: &TextAssets) -> Vec<u8> {
    // Exhaustive, so that a new field cannot be forgotten here.
    let TextAssets {
        tokenizer,
        chat_template,
        tool_template,
        template_kwargs,
        content_parts,
        bos,
        eos,
        pad,
        unk,
        add_bos,
        add_eos,
    } = assets;
    let mut out = Writer(MAGIC.to_vec());
    match tokenizer {
        TokenizerSource::HuggingFace(json) => {
            out.byte(HUGGING_FACE);
            out.bytes(json);
        }
        TokenizerSource::Gguf(GgufTokenizer { model, pre, tokens, kinds, scores, merges, add_space_prefix }) => {
            out.byte(GGUF);
            out.bytes(model.as_bytes());
            out.optional_string(pre.as_deref());
            out.strings(tokens);
            out.length(kinds.len());
            kinds.iter().for_each(|kind| out.byte(*kind as u8));
            out.length(scores.len());
            scores.iter().for_each(|score| out.0.extend(score.to_bits().to_le_bytes()));
            out.strings(merges);
            out.optional_flag(*add_space_prefix);
        }
    }
    out.optional_string(chat_template.as_deref());
    out.optional_string(tool_template.as_deref());
    out.optional_string(template_kwargs.as_deref());
    out.optional_flag(*content_parts);
    for token in [bos, eos, pad, unk] {
        out.optional_string(token.as_ref().map(|token| token.text.as_str()));
        if let Some(token) = token {
            out.byte(token.id.is_some() as u8);
            token.id.iter().for_each(|id| out.0.extend(id.to_le_bytes()));
        }
    }
    out.optional_flag(*add_bos);
    out.optional_flag(*add_eos);
    out.0
}

pub(super) fn read(bytes: &[u8]) -> Result<TextAssets, AssetsError> {
    let mut input = Reader { bytes, at: 0 };
    if bytes.len() > MAX_UPLOAD_BYTES {
        return Err(input.error(ErrorKind::TooLarge, format!("are {} bytes; at most {MAX_UPLOAD_BYTES} are read", bytes.len())));
    }
    if input.take(MAGIC.len())? != MAGIC {
        return Err(Reader { bytes, at: 0 }.error(ErrorKind::Malformed, "do not begin with their magic line".to_owned()));
    }
    let tokenizer = match input.byte()? {
        HUGGING_FACE => TokenizerSource::HuggingFace(input.bytes()?.to_vec()),
        GGUF => TokenizerSource::Gguf(GgufTokenizer {
            model: input.string()?,
            pre: input.optional_string()?,
            tokens: input.strings()?,
            kinds: input.list(1, |input| {
                let number = input.byte()?;
                TokenKind::from_number(number.into())
                    .ok_or_else(|| input.error(ErrorKind::Malformed, format!("have a token of kind {number}")))
            })?,
            scores: input.list(4, |input| Ok(f32::from_bits(u32::from_le_bytes(input.array()?))))?,
            merges: input.strings()?,
            add_space_prefix: input.optional_flag()?,
        }),
        other => {
            return Err(input.error(ErrorKind::Unsupported, format!("hold a tokenizer of form {other}")));
        }
    };
    let assets = TextAssets {
        tokenizer,
        chat_template: input.optional_string()?,
        tool_template: input.optional_string()?,
        template_kwargs: input.optional_string()?,
        content_parts: input.optional_flag()?,
        bos: input.special_token()?,
        eos: input.special_token()?,
        pad: input.special_token()?,
        unk: input.special_token()?,
        add_bos: input.optional_flag()?,
        add_eos: input.optional_flag()?,
    };
    if input.at != bytes.len() {
        return Err(input.error(ErrorKind::Malformed, format!("have {} bytes after their end", bytes.len() - input.at)));
    }
    Ok(assets)
}

struct Writer(Vec<u8>);

impl Writer {
    fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    fn length(&mut self, length: usize) {
        self.0.extend((length as u64).to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.length(bytes.len());
        self.0.extend(bytes);
    }

    fn optional_string(&mut self, string: Option<&str>) {
        self.byte(string.is_some() as u8);
        if let Some(string) = string {
            self.bytes(string.as_bytes());
        }
    }

    fn strings(&mut self, strings: &[String]) {
        self.length(strings.len());
        strings.iter().for_each(|string| self.bytes(string.as_bytes()));
    }

    fn optional_flag(&mut self, flag: Option<bool>) {
        self.byte(match flag {
            None => 0,
            Some(false) => 1,
            Some(true) => 2,
        });
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn error(&self, kind: ErrorKind, what: String) -> AssetsError {
        AssetsError::new(kind, Path::new("uploaded text assets"), what, "upload them again from an agent of this version")
            .at(self.at as u64)
    }

    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], AssetsError> {
        if count > self.left() {
            return Err(self.error(ErrorKind::Truncated, format!("end {} bytes too early", count - self.left())));
        }
        let taken = &self.bytes[self.at..self.at + count];
        self.at += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], AssetsError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn byte(&mut self) -> Result<u8, AssetsError> {
        Ok(self.take(1)?[0])
    }

    /// A count of things that take at least `least` bytes each: so many must still be there.
    fn length(&mut self, least: usize) -> Result<usize, AssetsError> {
        let length = u64::from_le_bytes(self.array()?);
        match usize::try_from(length) {
            Ok(length) if length <= self.left() / least => Ok(length),
            _ => Err(self.error(ErrorKind::Truncated, format!("claim {length} items and have {} bytes left", self.left()))),
        }
    }

    fn bytes(&mut self) -> Result<&'a [u8], AssetsError> {
        let length = self.length(1)?;
        self.take(length)
    }

    fn string(&mut self) -> Result<String, AssetsError> {
        let bytes = self.bytes()?;
        std::str::from_utf8(bytes)
            .map(str::to_owned)
            .map_err(|_| self.error(ErrorKind::Malformed, "hold a string that is not UTF-8".to_owned()))
    }

    /// One of `0..below`.
    fn choice(&mut self, below: u8) -> Result<u8, AssetsError> {
        let byte = self.byte()?;
        if byte < below {
            Ok(byte)
        } else {
            Err(self.error(ErrorKind::Malformed, format!("have {byte} where less than {below} was expected")))
        }
    }

    fn optional_string(&mut self) -> Result<Option<String>, AssetsError> {
        if self.choice(2)? == 1 { self.string().map(Some) } else { Ok(None) }
    }

    fn optional_flag(&mut self) -> Result<Option<bool>, AssetsError> {
        Ok([None, Some(false), Some(true)][usize::from(self.choice(3)?)])
    }

    fn list<T>(
        &mut self,
        least: usize,
        mut item: impl FnMut(&mut Self) -> Result<T, AssetsError>,
    ) -> Result<Vec<T>, AssetsError> {
        let length = self.length(least)?;
        if length > MAX_TOKENS {
            return Err(self.error(ErrorKind::TooLarge, format!("claim {length} tokens; at most {MAX_TOKENS} are read")));
        }
        let mut list = Vec::with_capacity(length);
        for _ in 0..length {
            list.push(item(self)?);
        }
        Ok(list)
    }

    fn strings(&mut self) -> Result<Vec<String>, AssetsError> {
        self.list(8, Self::string)
    }

    fn special_token(&mut self) -> Result<Option<SpecialToken>, AssetsError> {
        let Some(text) = self.optional_string()? else {
            return Ok(None);
        };
        let id = if self.choice(2)? == 1 { Some(u32::from_le_bytes(self.array()?)) } else { None };
        Ok(Some(SpecialToken { text, id }))
    }
}
