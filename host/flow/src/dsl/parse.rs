//! The tree of a source becomes the model: documents, tasks and their data flow.

use keyward_model::Diagnostic;

use super::{
    duration::{DurationSource, of_parts, parse_iso8601},
    model::*,
    reader::{Fields, Reader, placed},
    tree::{Key, Node, Tree},
};

/// The keys that say what a task is. `for` stands before `do`, which it also has.
const KINDS: [&str; 12] =
    ["call", "for", "fork", "emit", "listen", "raise", "run", "set", "switch", "try", "wait", "do"];

/// Reads a whole flow.
pub(super) fn workflow(root: &Node) -> Result<Workflow, Vec<Diagnostic>> {
    let mut reader = Reader::default();
    let workflow = reader.workflow(root);
    match workflow {
        Some(workflow) if reader.faults.is_empty() => Ok(workflow),
        _ => Err(reader.faults),
    }
}

impl Reader {
    fn workflow(&mut self, node: &Node) -> Option<Workflow> {
        let mut fields = self.fields(node, "a flow")?;
        let document = fields.required("document", Self::document);
        let input = fields.optional("input", Self::input);
        let components = fields.optional("use", Self::components);
        let tasks = fields.required("do", Self::tasks);
        let timeout = fields.optional("timeout", Self::timeout);
        let output = fields.optional("output", |reader, node| reader.output(node, "an output"));
        let schedule = fields.optional("schedule", Self::schedule);
        let evaluate = fields.optional("evaluate", Self::evaluate);
        fields.end()?;
        Some(Workflow {
            document: document?,
            input,
            components: components.unwrap_or_default(),
            tasks: tasks?,
            timeout,
            output,
            schedule,
            evaluate,
            definition: node.to_value(),
        })
    }

    fn document(&mut self, node: &Node) -> Option<Document> {
        let mut fields = self.fields(node, "a document")?;
        let dsl = fields.required("dsl", Self::text);
        let namespace = fields.required("namespace", Self::text);
        let name = fields.required("name", Self::text);
        let version = fields.required("version", Self::text);
        let title = fields.optional("title", Self::text);
        let summary = fields.optional("summary", Self::text);
        let tags = fields.optional("tags", Self::object);
        let metadata = fields.optional("metadata", Self::object);
        fields.end()?;
        Some(Document {
            dsl: dsl?,
            namespace: namespace?,
            name: name?,
            version: version?,
            title,
            summary,
            tags,
            metadata,
        })
    }

    fn components(&mut self, node: &Node) -> Option<Components> {
        let mut fields = self.fields(node, "'use'")?;
        let authentications = fields.optional("authentications", |reader, node| {
            reader.by_name(node, |reader, node| reader.authentication(node, false))
        });
        let errors = fields.optional("errors", |reader, node| reader.by_name(node, Self::error));
        let extensions = fields.optional("extensions", |reader, node| {
            reader.list_by_name(node, "extension", |reader, key, node| Some((placed(key), reader.extension(node)?)))
        });
        let functions = fields.optional("functions", |reader, node| {
            let entries = reader.entries(node, "an object")?;
            let read: Vec<Option<_>> =
                entries.iter().map(|(key, node)| Some((placed(key), reader.task(key, node)?))).collect();
            read.into_iter().collect()
        });
        let retries = fields.optional("retries", |reader, node| reader.by_name(node, Self::retry));
        let secrets = fields.optional("secrets", Self::texts);
        let timeouts = fields.optional("timeouts", |reader, node| reader.by_name(node, Self::timeout_after));
        let catalogs = fields.optional("catalogs", |reader, node| {
            reader.by_name(node, |reader, node| {
                let mut fields = reader.fields(node, "a catalog")?;
                let endpoint = fields.required("endpoint", Self::endpoint);
                fields.end()?;
                endpoint
            })
        });
        fields.end()?;
        Some(Components {
            authentications: authentications.unwrap_or_default(),
            errors: errors.unwrap_or_default(),
            extensions: extensions.unwrap_or_default(),
            functions: functions.unwrap_or_default(),
            retries: retries.unwrap_or_default(),
            secrets: secrets.unwrap_or_default(),
            timeouts: timeouts.unwrap_or_default(),
            catalogs: catalogs.unwrap_or_default(),
        })
    }

    fn extension(&mut self, node: &Node) -> Option<Extension> {
        let mut fields = self.fields(node, "an extension")?;
        let extend = fields.required("extend", |reader, node| {
            let kinds =
                ["call", "composite", "emit", "for", "listen", "raise", "run", "set", "switch", "try", "wait", "all"];
            reader.choice(node, &kinds)
        });
        let when = fields.optional("when", Self::text);
        let before = fields.optional("before", Self::tasks);
        let after = fields.optional("after", Self::tasks);
        fields.end()?;
        Some(Extension { extend: extend?, when, before: before.unwrap_or_default(), after: after.unwrap_or_default() })
    }

    fn schedule(&mut self, node: &Node) -> Option<Placed<Schedule>> {
        let mut fields = self.fields(node, "a schedule")?;
        let every = fields.optional("every", Self::duration);
        let cron = fields.optional("cron", Self::text);
        let after = fields.optional("after", Self::duration);
        let on = fields.optional("on", Self::consumption);
        let read = fields.optional("read", Self::event_form);
        fields.end()?;
        if let (Some(read), None) = (&read, &on) {
            return self.fault("bad-value", read.span, "'read' says how events are read and needs 'on'");
        }
        Some(Placed { value: Schedule { every, cron, after, on, read }, span: node.span })
    }

    fn evaluate(&mut self, node: &Node) -> Option<Evaluate> {
        let mut fields = self.fields(node, "'evaluate'")?;
        let language = fields.optional("language", Self::text);
        let mode = fields.optional("mode", |reader, node| reader.choice(node, &["strict", "loose"]));
        fields.end()?;
        Some(Evaluate { language, mode })
    }

    /// A list of tasks.
    pub(super) fn tasks(&mut self, node: &Node) -> Option<TaskList> {
        self.list_by_name(node, "task", Self::task)
    }

    fn task(&mut self, key: &Key, node: &Node) -> Option<Task> {
        let mut fields = self.fields(node, "a task")?;
        let condition = fields.optional("if", Self::text);
        let input = fields.optional("input", Self::input);
        let output = fields.optional("output", |reader, node| reader.output(node, "an output"));
        let export = fields.optional("export", |reader, node| reader.output(node, "an export"));
        let timeout = fields.optional("timeout", Self::timeout);
        let then = fields.optional("then", Self::name);
        let metadata = fields.optional("metadata", Self::object);
        let kinds: Vec<&str> = KINDS.into_iter().filter(|kind| fields.has(kind)).collect();
        let kind = match kinds.as_slice() {
            [kind] | [kind @ "for", "do"] => Self::kind(&mut fields, kind),
            _ => fields.one_of(&KINDS).and(None),
        };
        fields.end()?;
        Some(Task {
            name: placed(key),
            span: node.span,
            condition,
            input,
            output,
            export,
            timeout,
            then,
            metadata,
            kind: kind?,
            definition: node.to_value(),
        })
    }

    fn kind(fields: &mut Fields<'_, '_>, kind: &str) -> Option<TaskKind> {
        Some(match kind {
            "call" => TaskKind::Call(Self::call(fields)?),
            "do" => TaskKind::Do(fields.required("do", Self::tasks)?),
            "emit" => TaskKind::Emit(fields.required("emit", Self::emit)?),
            "for" => {
                let parts = fields.required("for", |reader, node| {
                    let mut fields = reader.fields(node, "'for'")?;
                    let each = fields.optional("each", Self::name);
                    let collection = fields.required("in", |reader, node| match &node.tree {
                        Tree::List(_) | Tree::Text(_) => Some(node.clone()),
                        _ => reader.fault("wrong-type", node.span, "expected an expression or a list"),
                    });
                    let at = fields.optional("at", Self::name);
                    fields.end()?;
                    Some((each, collection?, at))
                });
                let condition = fields.optional("while", Self::text);
                let tasks = fields.required("do", Self::tasks);
                let (each, collection, at) = parts?;
                TaskKind::For(Box::new(For { each, collection, at, condition, tasks: tasks? }))
            }
            "fork" => TaskKind::Fork(fields.required("fork", |reader, node| {
                let mut fields = reader.fields(node, "'fork'")?;
                let branches = fields.required("branches", Self::tasks);
                let compete = fields.optional("compete", Self::boolean);
                fields.end()?;
                Some(Fork { branches: branches?, compete: compete.unwrap_or(false) })
            })?),
            "listen" => {
                let parts = fields.required("listen", |reader, node| {
                    let mut fields = reader.fields(node, "'listen'")?;
                    let to = fields.required("to", Self::consumption);
                    let read = fields.optional("read", Self::event_form);
                    fields.end()?;
                    Some((to?, read))
                });
                let iterator = fields.optional("foreach", Self::iterator);
                let (to, read) = parts?;
                TaskKind::Listen(Box::new(Listen { to, read, iterator }))
            }
            "raise" => TaskKind::Raise(fields.required("raise", |reader, node| {
                let mut fields = reader.fields(node, "'raise'")?;
                let error = fields.required("error", |reader, node| match &node.tree {
                    Tree::Text(_) => Some(ErrorOrName::Name(reader.name(node)?)),
                    _ => Some(ErrorOrName::Inline(Box::new(reader.error(node)?))),
                });
                fields.end()?;
                error
            })?),
            "run" => TaskKind::Run(Box::new(fields.required("run", Self::run)?)),
            "set" => TaskKind::Set(fields.required("set", |reader, node| match &node.tree {
                Tree::Object(entries) if entries.is_empty() => {
                    reader.fault("bad-value", node.span, "'set' needs at least one entry")
                }
                _ => reader.object_or_text(node),
            })?),
            "switch" => TaskKind::Switch(fields.required("switch", |reader, node| {
                let cases = reader.list_by_name(node, "case", |reader, key, node| {
                    let mut fields = reader.fields(node, "a case")?;
                    let when = fields.optional("when", Self::text);
                    let then = fields.required("then", Self::name);
                    fields.end()?;
                    Some((placed(key), Case { when, then: then? }))
                })?;
                if cases.is_empty() {
                    return reader.fault("bad-value", node.span, "'switch' needs at least one case");
                }
                Some(cases)
            })?),
            "try" => {
                let tasks = fields.required("try", Self::tasks);
                let catch = fields.required("catch", Self::catch);
                TaskKind::Try(Box::new(Try { tasks: tasks?, ..catch? }))
            }
            _ => TaskKind::Wait(fields.required("wait", Self::duration)?),
        })
    }

    /// `catch`, with no tasks to try yet.
    fn catch(&mut self, node: &Node) -> Option<Try> {
        let mut fields = self.fields(node, "'catch'")?;
        let filter = fields.optional("errors", |reader, node| {
            let mut fields = reader.fields(node, "'errors'")?;
            let filter = fields.optional("with", Self::error_filter);
            fields.end()?;
            Some(filter)
        });
        let variable = fields.optional("as", Self::name);
        let when = fields.optional("when", Self::text);
        let except_when = fields.optional("exceptWhen", Self::text);
        let retry = fields.optional("retry", |reader, node| match &node.tree {
            Tree::Text(_) => Some(RetryOrName::Name(reader.name(node)?)),
            _ => Some(RetryOrName::Inline(Box::new(reader.retry(node)?))),
        });
        let handler = fields.optional("do", Self::tasks);
        let then = fields.optional("then", Self::name);
        fields.end()?;
        Some(Try { tasks: Vec::new(), filter: filter.flatten(), variable, when, except_when, retry, handler, then })
    }

    fn error_filter(&mut self, node: &Node) -> Option<ErrorFilter> {
        let mut fields = self.fields(node, "an error filter")?;
        let kind = fields.optional("type", Self::text);
        let status = fields.optional("status", Self::integer);
        let instance = fields.optional("instance", Self::text);
        let title = fields.optional("title", Self::text);
        let detail = fields.optional("detail", Self::text);
        fields.end()?;
        if kind.is_none() && status.is_none() && instance.is_none() && title.is_none() && detail.is_none() {
            return self.fault("bad-value", node.span, "an error filter needs at least one property");
        }
        Some(ErrorFilter { kind, status, instance, title, detail })
    }

    fn error(&mut self, node: &Node) -> Option<ErrorDefinition> {
        let mut fields = self.fields(node, "an error")?;
        let kind = fields.required("type", Self::name);
        let status = fields.required("status", Self::number);
        let instance = fields.optional("instance", Self::text);
        let title = fields.optional("title", Self::text);
        let detail = fields.optional("detail", Self::text);
        fields.end()?;
        Some(ErrorDefinition { kind: kind?, status: status?, instance, title, detail })
    }

    fn retry(&mut self, node: &Node) -> Option<RetryPolicy> {
        let mut fields = self.fields(node, "a retry policy")?;
        let when = fields.optional("when", Self::text);
        let except_when = fields.optional("exceptWhen", Self::text);
        let delay = fields.optional("delay", Self::duration);
        let backoff = fields.optional("backoff", Self::backoff);
        let limit = fields.optional("limit", |reader, node| {
            let mut fields = reader.fields(node, "'limit'")?;
            let attempt = fields.optional("attempt", |reader, node| {
                let mut fields = reader.fields(node, "'attempt'")?;
                let count = fields.optional("count", Self::number);
                let time = fields.optional("duration", Self::duration);
                fields.end()?;
                Some((count, time))
            });
            let total_time = fields.optional("duration", Self::duration);
            fields.end()?;
            Some((attempt.unwrap_or_default(), total_time))
        });
        let jitter = fields.optional("jitter", |reader, node| {
            let mut fields = reader.fields(node, "'jitter'")?;
            let from = fields.required("from", Self::duration);
            let to = fields.required("to", Self::duration);
            fields.end()?;
            Some((from?, to?))
        });
        fields.end()?;
        let ((count, attempt_time), total_time) = limit.unwrap_or_default();
        Some(RetryPolicy {
            span: node.span,
            when,
            except_when,
            delay,
            backoff,
            count,
            attempt_time,
            total_time,
            jitter,
        })
    }

    fn backoff(&mut self, node: &Node) -> Option<Placed<Backoff>> {
        let mut fields = self.fields(node, "a backoff")?;
        let kind = fields.one_of(&["constant", "linear", "exponential"])?;
        fields.optional(kind, |reader, node| match &node.tree {
            Tree::Object(entries) if entries.is_empty() => Some(()),
            Tree::Object(entries) => {
                let message = format!("a {kind} backoff has no field '{}'", entries[0].0.text);
                reader.fault_with(
                    "unknown-field",
                    entries[0].0.span,
                    message,
                    Some(format!("write '{kind}: {{}}'; the delay is set by 'delay'")),
                )
            }
            _ => reader.fault("wrong-type", node.span, format!("expected '{kind}: {{}}'")),
        });
        fields.end()?;
        let value = match kind {
            "constant" => Backoff::Constant,
            "linear" => Backoff::Linear,
            _ => Backoff::Exponential,
        };
        Some(Placed { value, span: node.span })
    }

    fn timeout(&mut self, node: &Node) -> Option<Placed<Timeout>> {
        let value = match &node.tree {
            Tree::Text(name) => Timeout::Name(name.clone()),
            _ => Timeout::After(self.timeout_after(node)?),
        };
        Some(Placed { value, span: node.span })
    }

    fn timeout_after(&mut self, node: &Node) -> Option<DurationSource> {
        let mut fields = self.fields(node, "a timeout")?;
        let after = fields.required("after", Self::duration);
        fields.end()?;
        after
    }

    /// A duration.
    pub(super) fn duration(&mut self, node: &Node) -> Option<DurationSource> {
        if let Tree::Text(text) = &node.tree {
            if text.trim_start().starts_with("${") {
                return Some(DurationSource::Expression(self.text(node)?));
            }
            return match parse_iso8601(text) {
                Ok(duration) => Some(DurationSource::Fixed(duration)),
                Err(reason) => self.fault_with(
                    "bad-duration",
                    node.span,
                    format!("'{text}' is no duration"),
                    Some(reason.to_owned()),
                ),
            };
        }
        let mut fields = self.fields(node, "a duration")?;
        let parts = ["days", "hours", "minutes", "seconds", "milliseconds"].map(|name| {
            let part = fields.optional(name, |reader, node| match u64::try_from(reader.integer(node)?) {
                Ok(part) => Some(part),
                Err(_) => reader.fault("bad-duration", node.span, "a duration cannot be negative"),
            });
            part.unwrap_or(0)
        });
        fields.end()?;
        if self.entries(node, "a duration")?.is_empty() {
            return self.fault("bad-duration", node.span, "a duration needs at least one part");
        }
        match of_parts(parts) {
            Ok(duration) => Some(DurationSource::Fixed(duration)),
            Err(reason) => self.fault("bad-duration", node.span, format!("this is no duration: {reason}")),
        }
    }

    fn input(&mut self, node: &Node) -> Option<Input> {
        let mut fields = self.fields(node, "an input")?;
        let schema = fields.optional("schema", Self::schema);
        let from = fields.optional("from", Self::object_or_text);
        fields.end()?;
        Some(Input { schema, from })
    }

    /// An output or an export.
    pub(super) fn output(&mut self, node: &Node, what: &'static str) -> Option<Output> {
        let mut fields = self.fields(node, what)?;
        let schema = fields.optional("schema", Self::schema);
        let form = fields.optional("as", Self::object_or_text);
        fields.end()?;
        Some(Output { schema, form })
    }

    fn schema(&mut self, node: &Node) -> Option<Schema> {
        let mut fields = self.fields(node, "a schema")?;
        let format = fields.optional("format", Self::text);
        let source = match fields.one_of(&["document", "resource"])? {
            "document" => fields.required("document", Self::any).map(SchemaSource::Inline),
            _ => fields.required("resource", |reader, node| {
                Some(SchemaSource::Resource(Placed { value: reader.resource(node)?, span: node.span }))
            }),
        };
        fields.end()?;
        Some(Schema { format, source: source? })
    }
}
