//! `template`: prints the stack's template.

use crate::{printer::Printer, template::TEMPLATE};

pub fn run(printer: &Printer) -> anyhow::Result<()> {
    printer.line(TEMPLATE.trim_end()).map(drop)
}
