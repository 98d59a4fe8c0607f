//! Transport addresses, `scheme://user:password@host/path?key=value`.

use std::fmt;

use crate::error::Error;
use crate::text::Text;

/// Where a broker is, as configuration writes it; never prints its password.
///
/// Both `scheme://rest` and the short `scheme:rest` (`sqlite:file.db`) are read.
#[derive(Clone, PartialEq, Eq)]
pub struct TransportUrl {
    scheme: Text,
    user: Option<Text>,
    password: Option<Text>,
    address: Text,
    query: Vec<(Text, Text)>,
}

impl TransportUrl {
    /// Reads an address.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) where there is no scheme or an escape is broken; the text does
    /// not repeat the address, which may hold a password.
    pub fn parse(url: &str) -> Result<Self, Error> {
        let Some((scheme, rest)) = url.split_once(':') else {
            return Err(Error::config(
                "a transport's url has no scheme; write `scheme://address`, like `memory://` or `mqtt://localhost:1883`",
            ));
        };
        if scheme.is_empty()
            || !scheme.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
        {
            return Err(Error::config(
                "a transport's url has no scheme before its first `:`; write `scheme://address`, like `memory://`",
            ));
        }
        let (rest, has_authority) = match rest.strip_prefix("//") {
            Some(rest) => (rest, true),
            None => (rest, false),
        };
        let (rest, query) = match rest.split_once('?') {
            Some((rest, query)) => (rest, query),
            None => (rest, ""),
        };
        let authority_end = rest.find('/').unwrap_or(rest.len());
        let (user, password, address) = match rest[..authority_end].rfind('@') {
            Some(at) if has_authority => {
                let (user, password) = match rest[..at].split_once(':') {
                    Some((user, password)) => (user, Some(password)),
                    None => (&rest[..at], None),
                };
                (Some(decode(user)?), password.map(decode).transpose()?, &rest[at + 1..])
            }
            _ => (None, None, rest),
        };
        let query = query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                if name.contains('@') {
                    return Err(Error::config(
                        "a transport's url has `@` in the name of an option; in a password, write `?` as `%3F`",
                    ));
                }
                Ok((decode(name)?, decode(value)?))
            })
            .collect::<Result<_, Error>>()?;
        Ok(Self {
            scheme: scheme.to_ascii_lowercase().into(),
            user,
            password,
            address: address.into(),
            query,
        })
    }

    /// The scheme, in lower case.
    #[must_use]
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// The user.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// The password. Never print it.
    #[must_use]
    pub fn password(&self) -> Option<&str> {
        self.password.as_deref()
    }

    /// What follows the scheme and the user: host, port and path, or a file's path.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The same of a broker, in which no `@` can be: one that is there ends a user or a password in which something is not escaped, and
    /// a part of that would be taken for a host or a path, and shown. Transports of brokers ask for this before anything else.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) with what to write; it repeats nothing of the address.
    pub fn broker(&self) -> Result<&str, Error> {
        let authority = self.address.split('/').next().unwrap_or_default();
        // `//user:pass?word@host`: the rest of the password is among the options.
        let is_no_host = self.user.is_none() && authority.split(',').any(has_port_of_letters);
        let goes_on = is_no_host && self.query.iter().any(|(_, value)| value.contains('@'));
        if self.address.contains('@') || goes_on {
            return Err(Error::config(
                "a transport's url has `@` where none can be; in a user or password write `/` as `%2F`, `?` as `%3F` and `@` as `%40`, \
                 behind the host `@` as `%40`, and `//` before all of it",
            ));
        }
        Ok(&self.address)
    }

    /// The options behind `?`, in order.
    pub fn query(&self) -> impl Iterator<Item = (&str, &str)> {
        self.query.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// Whether what should be `host:port` looks like a user and the beginning of a password.
fn has_port_of_letters(host: &str) -> bool {
    host.rsplit_once(':')
        .is_some_and(|(_, port)| !port.ends_with(']') && !port.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Undoes `%XX`.
fn decode(text: &str) -> Result<Text, Error> {
    let broken = || Error::config("a transport's url holds a broken `%` escape; write `%` as `%25`");
    if !text.contains('%') {
        return Ok(text.into());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let mut digit = || rest.next().and_then(|b| char::from(b).to_digit(16)).ok_or_else(broken);
            let value = digit()? * 16 + digit()?;
            bytes.push(u8::try_from(value).map_err(|_| broken())?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).map(Text::from).map_err(|_| broken())
}

impl fmt::Display for TransportUrl {
    /// The address without user, password and options; of an address with `@`, which may have a password before it
    /// (`mqtt:user:password@host`, or one with an unescaped `/`), what follows the last.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address.rsplit_once('@') {
            Some((_, rest)) => write!(f, "{}://…@{rest}", self.scheme),
            None => write!(f, "{}://{}", self.scheme, self.address),
        }
    }
}

impl fmt::Debug for TransportUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TransportUrl({self})")
    }
}
