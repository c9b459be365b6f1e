//! Output of rows as a table, as JSON, or with a template.

use std::io::{self, Write};

use anyhow::{Result, bail};
use serde_json::Value;

use crate::style;
use crate::template::Template;

/// Output format.
#[derive(Debug)]
pub(crate) enum Format {
    /// A table with column names.
    Table,
    /// One JSON value per line.
    Json,
    /// The template, applied to each row.
    Template(Template),
    /// The template as a table with column names.
    TableOf(Template),
}

impl Format {
    /// Parses the value of `--format`.
    pub(crate) fn parse(text: Option<&str>) -> Result<Self> {
        match text {
            None | Some("table" | "") => Ok(Self::Table),
            Some("json") => Ok(Self::Json),
            Some(text) => match text.strip_prefix("table ") {
                Some(template) => Ok(Self::TableOf(Template::parse(template)?)),
                None if text.contains("{{") => Ok(Self::Template(Template::parse(text)?)),
                None => {
                    bail!("{text:?} is not json, table, or a template with {{{{.Field}}}}")
                }
            },
        }
    }

    /// Parses `--format` of a command that has no table.
    pub(crate) fn without_table(text: Option<&str>) -> Result<Option<Self>> {
        match (text, Self::parse(text)?) {
            (None, _) => Ok(None),
            (_, Self::Table | Self::TableOf(_)) => bail!("this command has no table"),
            (_, format) => Ok(Some(format)),
        }
    }

    /// Formats rows. `value` has all fields of a row, `columns` the cells of its table row.
    pub(crate) fn render(
        &self,
        heads: &[&str],
        rows: impl IntoIterator<Item = (Value, Vec<String>)>,
    ) -> Result<String> {
        let mut out = String::new();
        match self {
            Self::Json => {
                for (value, _) in rows {
                    out.push_str(&value.to_string());
                    out.push('\n');
                }
            }
            Self::Template(template) => {
                for (value, _) in rows {
                    out.push_str(&template.render(&value)?);
                    out.push('\n');
                }
            }
            Self::Table => {
                let mut lines = vec![heads.iter().map(ToString::to_string).collect()];
                lines.extend(rows.into_iter().map(|(_, columns)| columns));
                align_columns(&lines, &mut out);
            }
            Self::TableOf(template) => {
                let split = |line: String| line.split('\t').map(str::to_owned).collect::<Vec<_>>();
                let mut lines = vec![split(template.heads())];
                for (value, _) in rows {
                    lines.push(split(template.render(&value)?));
                }
                align_columns(&lines, &mut out);
            }
        }
        Ok(out)
    }
}

/// Aligns the columns of a table.
fn align_columns(lines: &[Vec<String>], out: &mut String) {
    let count = lines.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<_> = (0..count).map(|column| width(column).unwrap_or_default()).collect();
    for (number, line) in lines.iter().enumerate() {
        let cells: Vec<_> =
            line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        let text = cells.join("   ");
        let text = text.trim_end();
        out.push_str(&if number == 0 { style::head(text) } else { text.to_owned() });
        out.push('\n');
    }
}

/// Prints to stdout. If the reader is gone, the error ends the command silently.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rows_are_formatted_in_every_format() {
        let rows = || {
            [("a", 1), ("long", 22)]
                .map(|(name, n)| (json!({"name": name, "n": n}), vec![name.into(), n.to_string()]))
        };
        for (format, text) in [
            (None, "NAME   N\na      1\nlong   22\n"),
            (Some("table"), "NAME   N\na      1\nlong   22\n"),
            (Some("json"), "{\"n\":1,\"name\":\"a\"}\n{\"n\":22,\"name\":\"long\"}\n"),
            (Some("{{.N}}:{{.Name}}"), "1:a\n22:long\n"),
            (Some("table {{.N}}\\t{{.Name}}"), "N    NAME\n1    a\n22   long\n"),
        ] {
            let format = Format::parse(format).unwrap();
            assert_eq!(format.render(&["NAME", "N"], rows()).unwrap(), text);
        }
        assert!(Format::parse(Some("yaml")).is_err());
    }
}
