//! The pages of companion-sink, in a real Chromium.

mod access;
mod decisions;
mod hostile;
mod looks;
mod reading;
mod scene;
