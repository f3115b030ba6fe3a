//! Shared by the command-line programs `cbbootstrap` and `cbbootstrap-agent`.
//!
//! - [`text`]: byte-order marks, line ends and hidden characters, and words for a shell
//! - [`environment`]: environment variables
//! - [`certificates`]: certificates in PEM files, and why a server's is not accepted
//! - [`color`]: colors on terminals
//! - [`command_line`]: options from the command line, the environment and a file
//! - [`completion`]: shells ask the program for candidates
//! - [`console`]: output to stdout and stderr
//! - [`exit`]: exit statuses
//! - [`failure`]: errors with hints
//! - [`files`]: whether others may read a secret or change a configuration file, and how to read and replace a file
//! - [`manuals`]: completion scripts and manual pages
//! - [`options_file`]: options that a YAML file sets
//! - [`proxy`]: the proxy for a URL
//! - [`reference`]: the options as a page of the documentation
//! - [`signer`]: signatures for an API that requires AWS credentials
//! - [`suggestion`]: "did you mean"
//! - [`values`]: values of options

pub mod certificates;
pub mod color;
pub mod command_line;
pub mod completion;
pub mod console;
pub mod environment;
pub mod exit;
pub mod failure;
pub mod files;
pub mod manuals;
pub mod options_file;
pub mod proxy;
pub mod reference;
pub mod signer;
pub mod suggestion;
pub mod text;
pub mod values;

pub use command_line::CommandLine;
