//! The subset of Go templates that is used for output: `{{.Field.Part}}`, `{{json .Field}}`,
//! `{{upper .Field}}`, `{{lower .Field}}`, `{{index .Labels "key"}}`, and `\t` and `\n` in text.

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// Parsed template.
#[derive(Debug)]
pub(crate) struct Template {
    parts: Vec<Part>,
}

#[derive(Debug, PartialEq)]
enum Part {
    Text(String),
    Field { function: Function, path: Vec<String> },
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Function {
    Print,
    Json,
    Upper,
    Lower,
}

impl Template {
    /// Parses a template.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            let (inside, after) = after
                .split_once("}}")
                .with_context(|| format!("{text:?} has no }}}} after {{{{"))?;
            if !before.is_empty() {
                parts.push(Part::Text(unescape(before)));
            }
            parts.push(action(inside.trim().trim_matches('-').trim())?);
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(unescape(rest)));
        }
        Ok(Self { parts })
    }

    /// Renders the template for a value.
    pub(crate) fn render(&self, value: &Value) -> Result<String> {
        let mut out = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Field { function, path } => {
                    let found = look_up(value, path)?;
                    match function {
                        Function::Print => out.push_str(&plain(found)),
                        Function::Json => out.push_str(&found.to_string()),
                        Function::Upper => out.push_str(&plain(found).to_uppercase()),
                        Function::Lower => out.push_str(&plain(found).to_lowercase()),
                    }
                }
            }
        }
        Ok(out)
    }

    /// Returns the field names as column names.
    pub(crate) fn heads(&self) -> String {
        let mut out = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Field { path, .. } => {
                    out.push_str(&path.last().cloned().unwrap_or_default().to_uppercase());
                }
            }
        }
        out
    }
}

fn action(text: &str) -> Result<Part> {
    let mut words = words(text)?.into_iter();
    let first = words.next().with_context(|| "an action is empty: {{}}".to_owned())?;
    let (function, field) = match first.as_str() {
        "json" => (Function::Json, words.next()),
        "upper" => (Function::Upper, words.next()),
        "lower" => (Function::Lower, words.next()),
        "index" => (Function::Print, words.next()),
        field if field.starts_with('.') => (Function::Print, Some(first.clone())),
        other => bail!("{other:?} is not a field (.Name), json, upper, lower or index"),
    };
    let field = field.with_context(|| format!("{{{{{text}}}}} has no field"))?;
    let dotted = field.strip_prefix('.').with_context(|| format!("{field:?} is not a field"))?;
    let mut path: Vec<String> =
        dotted.split('.').filter(|part| !part.is_empty()).map(str::to_owned).collect();
    if first == "index" {
        path.extend(words.by_ref());
    }
    ensure!(words.next().is_none(), "{{{{{text}}}}} has too many arguments");
    Ok(Part::Field { function, path })
}

/// Splits a text into words, some of them quoted.
fn words(text: &str) -> Result<Vec<String>> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (word, after) = match rest.strip_prefix('"') {
            Some(quoted) => {
                quoted.split_once('"').with_context(|| format!("{text:?} has an open quote"))?
            }
            None => rest.split_once(char::is_whitespace).unwrap_or((rest, "")),
        };
        words.push(word.to_owned());
        rest = after.trim_start();
    }
    Ok(words)
}

/// Returns a field. Names are compared without case and underscores, so `.CreatedAt` is
/// `created_at`.
fn look_up<'a>(value: &'a Value, path: &[String]) -> Result<&'a Value> {
    let mut found = value;
    for name in path {
        let Some(fields) = found.as_object() else {
            if found.is_null() {
                return Ok(&Value::Null);
            }
            bail!("there is no .{name}: its parent has no fields");
        };
        found = match fields.get(name.as_str()) {
            Some(exact) => exact,
            None => match fields.iter().find(|(key, _)| same(key, name)) {
                Some((_, like)) => like,
                // Containers have different labels.
                None if path.first().is_some_and(|first| same(first, "labels")) => &Value::Null,
                None => {
                    let known: Vec<_> = fields.keys().map(String::as_str).collect();
                    bail!("there is no .{name}; there are: {}", known.join(", "));
                }
            },
        };
    }
    Ok(found)
}

fn same(a: &str, b: &str) -> bool {
    let plain = |text: &str| text.replace('_', "").to_ascii_lowercase();
    plain(a) == plain(b)
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn unescape(text: &str) -> String {
    text.replace("\\t", "\t").replace("\\n", "\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn render(template: &str) -> Result<String> {
        let value = json!({
            "id": "abc", "created_at": null, "exit": { "code": 3 }, "labels": { "a.b": "c" }
        });
        Template::parse(template)?.render(&value)
    }

    #[test]
    fn template_renders_fields_functions_and_text() {
        for (template, text) in [
            ("plain", "plain"),
            ("{{.ID}}", "abc"),
            ("{{ .Id }}\\t<{{.CreatedAt}}>", "abc\t<>"),
            ("{{.Exit.Code}}", "3"),
            ("{{.CreatedAt.More}}", ""),
            (
                "{{json .Exit}} {{json .}}",
                "{\"code\":3} {\"created_at\":null,\"exit\":{\"code\":3},\"id\":\"abc\",\"labels\":{\"a.b\":\"c\"}}",
            ),
            ("{{upper .ID}}", "ABC"),
            ("{{index .Labels \"a.b\"}}{{index .Labels \"none\"}}", "c"),
        ] {
            assert_eq!(render(template).unwrap(), text, "{template}");
        }
        assert_eq!(Template::parse("{{.ID}}\t{{.Exit.Code}}").unwrap().heads(), "ID\tCODE");
    }

    #[test]
    fn invalid_template_is_explained() {
        for (template, word) in [
            ("{{.ID", "}}"),
            ("{{}}", "empty"),
            ("{{range .}}", "range"),
            ("{{.Nothing}}", "exit"),
            ("{{.ID.More}}", "no fields"),
            ("{{json}}", "no field"),
            ("{{.ID .ID}}", "too many"),
            ("{{index .Labels \"a}}", "quote"),
        ] {
            let error = render(template).unwrap_err().to_string();
            assert!(error.contains(word), "{template}: {error}");
        }
    }
}
