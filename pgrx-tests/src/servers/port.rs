//! Free TCP ports on 127.0.0.1.

use std::collections::HashSet;
use std::net::TcpListener;
use std::sync::Mutex;
use std::time::SystemTime;

/// Below the range from which the kernel takes the local ports of outgoing connections, so that a server that is
/// down for a moment finds its port again.
const RANGE: std::ops::Range<u16> = 20_000..32_000;

static GIVEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);

/// A port that nobody listens on; never the same one twice in this process.
///
/// # Panics
/// When no port is free.
pub fn free() -> u16 {
    let nanos = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |d| d.subsec_nanos());
    let seed = nanos.wrapping_add(std::process::id().wrapping_mul(7919));
    let width = u32::from(RANGE.end - RANGE.start);
    (0..width)
        .map(|i| {
            RANGE.start + u16::try_from((seed.wrapping_add(i)) % width).expect("within the range")
        })
        .find(|port| is_free(*port) && remember(*port))
        .expect("a free port on 127.0.0.1")
}

/// The port in the environment variable `name`; else `preferred` if nobody listens there; else a free one.
///
/// # Panics
/// When the variable is set to something that is not a port, or to one that is taken.
pub fn chosen(name: &str, preferred: u16) -> u16 {
    match std::env::var(name) {
        Ok(text) => {
            let port = text
                .parse()
                .unwrap_or_else(|_| panic!("{name}={text} is not a port number"));
            assert!(is_free(port), "{name}={port}: the port is in use");
            port
        }
        Err(_) if is_free(preferred) && remember(preferred) => preferred,
        Err(_) => free(),
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}

/// False when the port was given out already.
fn remember(port: u16) -> bool {
    GIVEN
        .lock()
        .expect("the ports given out")
        .get_or_insert_default()
        .insert(port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_free_and_given_once() {
        let (one, two) = (free(), free());
        assert_ne!(one, two);
        assert!(is_free(one) && is_free(two));
    }

    #[test]
    fn a_taken_preference_gives_another() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let taken = listener.local_addr().expect("address").port();
        assert_ne!(chosen("PG_CDC_NO_SUCH_VARIABLE", taken), taken);
    }
}
