//! Values keep their worth (G8).

mod random;
mod types;
