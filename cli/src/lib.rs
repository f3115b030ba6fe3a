//! What `cbbootstrap` and `cbbootstrap-agent` share as command-line programs.
//!
//! - [`text`]: text that people and tools write, with byte-order marks and Windows' line ends
//! - [`environment`]: environment variables, read by the same rules everywhere
//! - [`command_line`]: options from the command line, the environment and a file
//! - [`files`]: whether others may read a secret or change a configuration file
//! - [`signer`]: signatures for an API that requires AWS credentials

pub mod command_line;
pub mod environment;
pub mod files;
pub mod signer;
pub mod text;

pub use command_line::CommandLine;
