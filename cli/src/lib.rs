//! What `cbbootstrap` and `cbbootstrap-agent` share as command-line programs.
//!
//! - [`text`]: text that people and tools write, with byte-order marks and Windows' line ends
//! - [`environment`]: environment variables, read by the same rules everywhere
//! - [`color`]: colours of text on terminals
//! - [`command_line`]: options from the command line, the environment and a file
//! - [`console`]: what is printed, and where
//! - [`failure`]: exit statuses, and errors that tell the reader what to do next
//! - [`files`]: whether others may read a secret or change a configuration file
//! - [`manuals`]: completion scripts and manual pages
//! - [`options_file`]: options that a YAML file sets
//! - [`reference`]: the options as a page of the documentation
//! - [`signer`]: signatures for an API that requires AWS credentials
//! - [`suggestion`]: "did you mean"
//! - [`values`]: values of options, and their rules

pub mod color;
pub mod command_line;
pub mod console;
pub mod environment;
pub mod failure;
pub mod files;
pub mod manuals;
pub mod options_file;
pub mod reference;
pub mod signer;
pub mod suggestion;
pub mod text;
pub mod values;

pub use command_line::CommandLine;
