//! Lower-case hex digits: what ids and traces are written in.

/// What each byte stands for as a digit; [`NONE`] for what is none. Upper case is none, since no form of msgkit's writes it.
const VALUES: [u8; 256] = {
    let mut values = [NONE; 256];
    let mut digit = 0;
    while digit < 16 {
        values[b"0123456789abcdef"[digit] as usize] = digit as u8;
        digit += 1;
    }
    values
};
const NONE: u8 = 0xff;

/// The number that at most 32 digits stand for. (`from_str_radix` would also take upper case and a sign.)
#[inline]
pub(super) fn read(digits: &[u8]) -> Option<u128> {
    let (mut number, mut seen) = (0, 0);
    // A word at a time, and one question at the end.
    for word in digits.chunks(16) {
        let mut part = 0_u64;
        for digit in word {
            let value = VALUES[usize::from(*digit)];
            seen |= value;
            part = part << 4 | u64::from(value & 0xf);
        }
        number = number << (4 * word.len()) | u128::from(part);
    }
    (seen < 16).then_some(number)
}

/// Writes two digits for each byte.
pub(super) fn write(digits: &mut [u8], bytes: &[u8]) {
    const DIGITS: [u8; 16] = *b"0123456789abcdef";
    for (pair, byte) in digits.as_chunks_mut().0.iter_mut().zip(bytes) {
        *pair = [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 0xf)]];
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{read, write};

    proptest! {
        #[test]
        fn what_was_written_is_read(number: u128, length in 1_usize..=16) {
            let mut digits = [0; 32];
            let digits = &mut digits[..length * 2];
            write(digits, &number.to_be_bytes()[16 - length..]);
            let kept = if length == 16 { number } else { number & ((1 << (length * 8)) - 1) };
            prop_assert_eq!(read(digits), Some(kept));
        }

        #[test]
        fn nothing_else_is_a_digit(digits in "[0-9a-f]{0,31}", other: u8, at: prop::sample::Index) {
            prop_assume!(!matches!(other, b'0'..=b'9' | b'a'..=b'f'));
            let mut digits = digits.into_bytes();
            digits.insert(at.index(digits.len() + 1), other);
            prop_assert_eq!(read(&digits), None);
        }
    }
}
