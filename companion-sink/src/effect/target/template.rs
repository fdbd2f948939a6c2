//! Templates of bodies, subjects and addresses, over the parts of an event. They are read once, when the program starts.

use std::collections::BTreeSet;

use minijinja::value::{Serde, Value};
use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior, escape_formatter};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use serde_json::value::RawValue;

use crate::config::nearest;
use crate::error::{Code, Result, misconfigured};
use crate::event::own::{OwnEvent, is_own, op_text};
use crate::event::parse_body;
use crate::kafka::record::Record;
use crate::rejected::failure::{Failure, Stage};

/// What a template can look at.
const NAMES: [&str; 6] = ["before", "after", "value", "op", "source", "audit"];
/// What the language brings along.
const BUILT_IN: [&str; 4] = ["range", "dict", "namespace", "debug"];
/// The only template of an environment.
const NAME: &str = "template";
/// A file that holds a template.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What a template makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Makes {
    /// Values stand in it as they are.
    Text,
    /// Values are escaped.
    Html,
}

/// A template that was read.
pub(crate) struct Template {
    /// The key of the configuration.
    key: &'static str,
    environment: Environment<'static>,
    /// What it looks at: `after.email`.
    paths: BTreeSet<String>,
}

/// An event as templates see it.
#[derive(Serialize, Deserialize)]
pub(crate) struct TemplateSubject {
    #[serde(default)]
    before: Json,
    #[serde(default)]
    after: Json,
    /// What an application's own event holds.
    #[serde(skip_deserializing)]
    value: Json,
    #[serde(default)]
    op: Json,
    #[serde(default)]
    source: Json,
    #[serde(default)]
    audit: Json,
}

impl TemplateSubject {
    /// Reads an event.
    pub(crate) fn read(record: &Record) -> std::result::Result<Self, Failure> {
        if !is_own(record) {
            return Ok(parse_body(record)?);
        }
        let OwnEvent { value, audit } = OwnEvent::read(record)?;
        let json = |raw: &RawValue| serde_json::from_str(raw.get());
        let broken = |_| Failure::undecodable("the value is not JSON".to_owned());
        Ok(TemplateSubject {
            before: Json::Null,
            after: Json::Null,
            value: value.map_or(Ok(Json::Null), json).map_err(broken)?,
            op: op_text(record).into(),
            source: Json::Null,
            audit: json(&audit).map_err(broken)?,
        })
    }

    /// Whether it has what a template looks at.
    fn has(&self, path: &str) -> bool {
        let mut names = path.split('.');
        let mut found = match names.next() {
            Some("before") => &self.before,
            Some("after") => &self.after,
            Some("value") => &self.value,
            Some("op") => &self.op,
            Some("source") => &self.source,
            Some("audit") => &self.audit,
            _ => return true,
        };
        for name in names {
            match found.get(name) {
                Some(part) => found = part,
                // What belongs to a text or a list is no column.
                None => return !(found.is_object() || found.is_null()),
            }
        }
        true
    }
}

impl Template {
    /// Reads the template of `key`, or the file that is named instead; none where there is neither.
    pub(crate) fn read(
        key: &'static str,
        text: &str,
        file: &str,
        makes: Makes,
    ) -> Result<Option<Template>> {
        match (text.is_empty(), file.is_empty()) {
            (true, true) => Ok(None),
            (false, true) => Template::new(key, text, makes).map(Some),
            (true, false) => Template::new(key, &read_file(file)?, makes).map(Some),
            (false, false) => Err(misconfigured(
                format!("{key} and {key}_file are both set"),
                "Remove one of them.",
            )),
        }
    }

    /// Reads a template; what is wrong with it is told in words.
    pub(crate) fn new(key: &'static str, text: &str, makes: Makes) -> Result<Template> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_auto_escape_callback(move |_| match makes {
            Makes::Html => AutoEscape::Html,
            Makes::Text => AutoEscape::None,
        });
        // NULL is shown as nothing.
        environment.set_formatter(|out, state, value| match value.is_none() {
            true => Ok(()),
            false => escape_formatter(out, state, value),
        });
        let wrong = |why: String| {
            misconfigured(
                format!("{key}: {why}"),
                "It is a template in Jinja's language, over before, after, value, op, source and audit.",
            )
        };
        let added = environment.add_template_owned(NAME, text.to_owned());
        added.map_err(|error| wrong(told(&error)))?;
        let template = environment.get_template(NAME);
        let template = template.map_err(|error| wrong(told(&error)))?;
        let paths: BTreeSet<String> = template.undeclared_variables(true).into_iter().collect();
        for path in &paths {
            let name = path.split('.').next().unwrap_or_default();
            if !NAMES.contains(&name) && !BUILT_IN.contains(&name) {
                let near = nearest(name, NAMES.into_iter());
                let meant =
                    near.map_or(String::new(), |near| format!(", did you mean \"{near}\"?"));
                return Err(wrong(format!("unknown variable \"{name}\"{meant}")));
            }
        }
        Ok(Template {
            key,
            environment,
            paths,
        })
    }

    /// What it makes of an event. Fails where the event does not have what it looks at.
    pub(crate) fn render(&self, subject: &TemplateSubject) -> std::result::Result<String, Failure> {
        let rendered = self.environment.get_template(NAME);
        let rendered = rendered.and_then(|template| template.render(Value::from(Serde(subject))));
        rendered.map_err(|error| {
            let missing = self.paths.iter().filter(|path| !subject.has(path));
            let missing: Vec<&str> = missing.map(String::as_str).collect();
            let why = match (error.kind(), missing.as_slice()) {
                (ErrorKind::UndefinedError, [_, ..]) => {
                    format!("the event has no {}", missing.join(", "))
                }
                // Its text may hold values of the row.
                (kind, _) => match error.line() {
                    Some(line) => format!("{kind} (line {line})"),
                    None => kind.to_string(),
                },
            };
            failed(self.key, &why)
        })
    }

    /// Whether it looks at nothing: it always makes the same.
    pub(crate) fn is_constant(&self) -> bool {
        self.paths.is_empty()
    }
}

/// A failure of the template of `key`.
fn failed(key: &str, why: &str) -> Failure {
    Failure {
        code: Code::EffectRefused,
        reason: "template".into(),
        stage: Stage::Transformation,
        message: format!("{key}: {why}"),
        state: None,
    }
}

/// What a template's text does wrong: it is the configuration's, and holds no value of a row.
fn told(error: &minijinja::Error) -> String {
    let line = error
        .line()
        .map_or(String::new(), |line| format!(" (line {line})"));
    match error.detail() {
        Some(detail) => format!("{}: {detail}{line}", error.kind()),
        None => format!("{}{line}", error.kind()),
    }
}

fn read_file(file: &str) -> Result<String> {
    use std::io::Read;
    let mut text = String::new();
    let read = std::fs::File::open(file);
    let read = read.and_then(|file| file.take(FILE_BYTES_MAX).read_to_string(&mut text));
    read.map_err(|error| {
        misconfigured(
            format!("cannot read {file}: {error}"),
            "Make the file readable for this user, or change the path.",
        )
    })?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject() -> TemplateSubject {
        let value =
            br#"{"op":"c","before":null,"after":{"id":1,"name":"Eva <3","note":null,"tags":["a"]},
            "source":{"table":"customer"},"audit":{"actor":"ann"}}"#;
        let headers: [(&str, Option<&[u8]>); 1] = [("cdc.op", Some(b"c"))];
        let record = Record::new("t".into(), 0, 0, None, Some(value), headers.into_iter());
        TemplateSubject::read(&record).unwrap()
    }

    fn render(text: &str, makes: Makes) -> std::result::Result<String, Failure> {
        Template::new("body", text, makes)
            .unwrap()
            .render(&subject())
    }

    #[test]
    fn values_stand_where_they_belong() {
        for (text, made) in [
            (
                "Hi {{ after.name }}, by {{ audit.actor }}",
                "Hi Eva <3, by ann",
            ),
            (
                "{{ after.note }}|{{ op }}|{{ source.table }}",
                "|c|customer",
            ),
            ("{% for tag in after.tags %}{{ tag }}{% endfor %}", "a"),
            ("{{ after.name | upper }}", "EVA <3"),
            (
                "{{ after | tojson }}",
                r#"{"id": 1, "name": "Eva \u003c3", "note": null, "tags": ["a"]}"#,
            ),
            ("{% if before is none %}new{% endif %}", "new"),
            ("{{ after.email is defined }}", "False"),
        ] {
            assert_eq!(render(text, Makes::Text).unwrap(), made, "{text}");
        }
        assert_eq!(
            render("{{ after.name }}", Makes::Html).unwrap(),
            "Eva &lt;3"
        );
    }

    #[test]
    fn an_own_event_is_its_value() {
        let value = br#"{"orderId":7,"items":[{"name":"pen"}]}"#;
        let headers: [(&str, Option<&[u8]>); 2] =
            [("cdc.op", Some(b"emit")), ("cdc.actor", Some(b"ann"))];
        let own = Record::new("t".into(), 0, 0, None, Some(value), headers.into_iter());
        let plain = Record::new("t".into(), 0, 0, None, Some(value), std::iter::empty());
        let template =
            "{{ op }} {{ value.orderId }} {{ value.items[0].name }} by {{ audit.actor }}";
        let template = Template::new("body", template, Makes::Text).unwrap();
        let made = |record: &Record| template.render(&TemplateSubject::read(record).unwrap());
        assert_eq!(made(&own).unwrap(), "emit 7 pen by ann");
        assert_eq!(made(&plain).unwrap(), "emit 7 pen by ");
        let template = Template::new("body", "{{ value.total }}", Makes::Text).unwrap();
        let failure = template.render(&TemplateSubject::read(&own).unwrap());
        let told = failure.unwrap_err().message;
        assert_eq!(told, "body: the event has no value.total");
        assert_eq!(
            Template::new("body", "{{ value.id }}", Makes::Text)
                .unwrap()
                .render(&subject())
                .unwrap_err()
                .message,
            "body: the event has no value.id"
        );
    }

    #[test]
    fn what_the_event_does_not_have_is_named() {
        for (text, named) in [
            ("{{ after.emial }}", "body: the event has no after.emial"),
            ("{{ before.name }}", "body: the event has no before.name"),
            (
                "{{ after.address.city }}",
                "body: the event has no after.address.city",
            ),
            (
                "{{ after.name }} {% if after.x %}{% endif %}",
                "body: the event has no after.x",
            ),
        ] {
            let failure = render(text, Makes::Text).unwrap_err();
            assert_eq!(
                (&*failure.reason, &*failure.message),
                ("template", named),
                "{text}"
            );
        }
        let failure = render("{{ after.name | uper }}", Makes::Text).unwrap_err();
        assert_eq!(failure.message, "body: unknown filter (line 1)");
        let failure = render("{{ after.name | int }}", Makes::Text).unwrap_err();
        assert!(!failure.message.contains("Eva"), "{}", failure.message);
    }

    #[test]
    fn mistakes_are_found_before_any_event() {
        for (text, named) in [
            (
                "{{ aftr.name }}",
                "unknown variable \"aftr\", did you mean \"after\"?",
            ),
            ("{{ after.name", "syntax error"),
            ("{% if %}", "syntax error"),
        ] {
            let error = Template::new("body", text, Makes::Text).err();
            let told = error.map(|error| error.message).unwrap_or_default();
            assert!(told.contains(named), "{text}: {told}");
        }
        let both = Template::read("html", "a", "b", Makes::Html).err().unwrap();
        assert!(both.message.contains("html and html_file"));
        let missing = Template::read("html", "", "/nowhere", Makes::Html)
            .err()
            .unwrap();
        assert!(missing.message.contains("/nowhere"));
    }
}
