//! A file descriptor that wakes a thread.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// A Linux eventfd: a counter that makes a file descriptor readable.
#[derive(Debug)]
pub struct EventFd(OwnedFd);

impl EventFd {
    pub fn new() -> std::io::Result<EventFd> {
        // SAFETY: a plain system call; the descriptor is owned from here on.
        unsafe {
            let fd = libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK);
            if fd < 0 {
                Err(std::io::Error::last_os_error())
            } else {
                Ok(EventFd(OwnedFd::from_raw_fd(fd)))
            }
        }
    }

    pub fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    pub fn signal(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: writes eight bytes to our own descriptor; a full counter is readable anyway.
        unsafe { libc::write(self.raw(), one.as_ptr().cast(), one.len()) };
    }

    /// Takes all signals so far.
    pub fn drain(&self) {
        let mut counter = [0u8; 8];
        // SAFETY: reads eight bytes from our own descriptor, which does not block.
        unsafe { libc::read(self.raw(), counter.as_mut_ptr().cast(), counter.len()) };
    }

    /// Waits for a signal, at most `timeout_ms`, and takes it. Not for the main thread.
    pub fn wait(&self, timeout_ms: i32) {
        let mut poll = libc::pollfd {
            fd: self.raw(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one descriptor of our own.
        unsafe { libc::poll(&mut poll, 1, timeout_ms) };
        self.drain();
    }
}
