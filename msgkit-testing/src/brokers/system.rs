//! What the machine has: programs, free ports, names that nobody else uses.

use std::env;
use std::fmt::Write;
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

/// Where the program is: on the search path, or in one of `also`.
pub(super) fn find(program: &Path, also: &[&str], fits: impl Fn(&Path) -> bool) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(also.iter().map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|file| file.is_file() && fits(file))
}

/// Ports that nobody listens on now.
///
/// They lie below the range from which outgoing connections take theirs on Linux, so that a broker that was stopped
/// finds its port free when it starts again. Somebody may take one before the broker does: whoever starts a broker
/// tries again with others.
pub(super) fn free_ports<const N: usize>() -> io::Result<[u16; N]> {
    // Held until all are found, so that they differ.
    let mut held = Vec::with_capacity(N);
    let mut ports = [0; N];
    for port in &mut ports {
        let listener = (0..200)
            .find_map(|_| TcpListener::bind(("127.0.0.1", fastrand::u16(15_000..32_000))).ok())
            .map_or_else(|| TcpListener::bind(("127.0.0.1", 0)), Ok)?;
        *port = listener.local_addr()?.port();
        held.push(listener);
    }
    Ok(ports)
}

/// A name that nobody else uses, in this process or another, and that every broker takes: `orders-1f03-2-9ac41e`.
pub(super) fn unique(name: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' }).collect();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{name}-{:x}-{count}-{:06x}", process::id(), fastrand::u32(..) & 0x00ff_ffff)
}

/// The text with everything but letters, digits and `-._~` as `%XX` (RFC 3986, section 2.1).
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            escaped.push(char::from(byte));
        } else {
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}
