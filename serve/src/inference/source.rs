//! A picture as it arrives: bytes, or text that holds them.

use std::borrow::Cow;

use actix_web::web::Bytes;
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::embedder::EmbedError;

const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);

/// A picture to embed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ImageSource {
    /// A file's content.
    Bytes(Bytes),
    /// The same as base64, with or without the head of a data URI. It never names a file or an address: those are refused.
    Text(String),
}

impl From<Vec<u8>> for ImageSource {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes.into())
    }
}

impl From<String> for ImageSource {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl ImageSource {
    /// Memory it holds.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Text(text) => text.len(),
        }
    }

    /// The file's content.
    pub(crate) fn bytes(&self) -> Result<Cow<'_, [u8]>, EmbedError> {
        match self {
            Self::Bytes(bytes) => Ok(Cow::Borrowed(bytes)),
            Self::Text(text) => from_text(text).map(Cow::Owned),
        }
    }
}

fn from_text(text: &str) -> Result<Vec<u8>, EmbedError> {
    let text = text.trim();
    let encoded = match text.get(..5) {
        Some(head) if head.eq_ignore_ascii_case("data:") => {
            let (head, body) = text.split_once(',').ok_or_else(|| EmbedError::NotBase64 { reason: "the data URI has no comma".into() })?;
            if !head.to_ascii_lowercase().ends_with(";base64") {
                return Err(EmbedError::NotBase64 { reason: "the data URI does not say `;base64`".into() });
            }
            body
        }
        _ if has_scheme(text) => return Err(EmbedError::Address),
        _ => text,
    };
    // `base64 FILE` breaks lines.
    let encoded: Cow<'_, str> =
        if encoded.contains(['\r', '\n']) { encoded.split(['\r', '\n']).collect::<String>().into() } else { encoded.into() };
    let engine = if encoded.bytes().any(|byte| matches!(byte, b'-' | b'_')) { &URL_SAFE } else { &STANDARD };
    engine.decode(&*encoded).map_err(|error| EmbedError::NotBase64 { reason: error.to_string() })
}

/// Does the text start as `http://`, `file:/` and their like do? Base64 has no colon.
fn has_scheme(text: &str) -> bool {
    let scheme = text.bytes().take(16).take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
    let length = scheme.count();
    length > 0 && text.as_bytes().get(length) == Some(&b':')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<u8>, String> {
        from_text(text).map_err(|error| error.to_string())
    }

    #[test]
    fn base64_is_read_bare_wrapped_unpadded_url_safe_and_as_a_data_uri() {
        let bytes = [0xfb, 0xff, 0xfe, 0x01];
        for text in [
            "+//+AQ==",
            "+//+AQ",
            "-__-AQ",
            "+//+\nAQ==\n",
            " data:image/png;base64,+//+AQ== ",
            "DATA:;BASE64,+//+AQ",
            "data:image/svg+xml;charset=x;base64,+//+AQ",
        ] {
            assert_eq!(read(text).as_deref(), Ok(&bytes[..]), "{text}");
        }
    }

    #[test]
    fn addresses_and_paths_are_refused_and_never_opened() {
        for text in ["http://localhost/a.jpg", "https://x/y", "file:///etc/passwd", "FILE:/etc/passwd", "s3://bucket/key"] {
            assert!(read(text).unwrap_err().contains("are not opened"), "{text}");
        }
        for text in ["/tmp/x.jpg", "../x.png", "a photo of a cat", "é", "data:image/png,abc", "data:image/png;base64"] {
            assert!(read(text).unwrap_err().contains("base64"), "{text}");
        }
    }
}
