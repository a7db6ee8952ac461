//! Headers as one blob: per header u32 LE length, name, u32 LE length, value.
use bytes::{Buf, Bytes};

/// Packs headers; `None` if there are none.
pub(super) fn pack(headers: &[(String, Bytes)]) -> Option<Vec<u8>> {
    if headers.is_empty() {
        return None;
    }
    let mut blob = Vec::with_capacity(headers.iter().map(|(name, value)| 8 + name.len() + value.len()).sum());
    for (name, value) in headers {
        for part in [name.as_bytes(), value] {
            // A record is at most 16 MiB, so a part is too.
            blob.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_le_bytes());
            blob.extend_from_slice(part);
        }
    }
    Some(blob)
}

/// Unpacks headers; what is cut short (only a damaged file has that) ends the list.
pub(super) fn unpack(blob: &[u8]) -> Vec<(String, Bytes)> {
    let mut rest = blob;
    let mut headers = Vec::new();
    while let (Some(name), Some(value)) = (part(&mut rest), part(&mut rest)) {
        headers.push((String::from_utf8_lossy(name).into_owned(), Bytes::copy_from_slice(value)));
    }
    headers
}

fn part<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(rest.try_get_u32_le().ok()?).ok()?;
    let (part, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    Some(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_back_in_order_with_repeats() {
        let headers = vec![
            ("a".to_owned(), Bytes::from_static(b"1")),
            (String::new(), Bytes::new()),
            ("a".to_owned(), Bytes::from_static(&[0, 255])),
        ];
        assert_eq!(unpack(&pack(&headers).unwrap()), headers);
        assert_eq!(pack(&[]), None);
        assert_eq!(unpack(&[1, 0, 0, 0, b'a', 9, 0]), vec![]);
    }
}
