//! `template`: prints a template.

use crate::{
    cli::{TemplateArgs, TemplateName},
    printer::Printer,
    template::{CLUSTER_TEMPLATE, TEMPLATE},
};

pub fn run(args: &TemplateArgs, printer: &Printer) -> anyhow::Result<()> {
    let template = match args.template {
        TemplateName::Api => TEMPLATE,
        TemplateName::CouchbaseCluster => CLUSTER_TEMPLATE,
    };
    printer.line(template.trim_end()).map(drop)
}
