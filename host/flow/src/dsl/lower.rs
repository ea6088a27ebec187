//! The model becomes a program: names are resolved, expressions compiled, values checked.
//!
//! What is not executed yet is refused here, by name: a program holds nothing that would be ignored.

use std::collections::BTreeMap;

use keyward_model::{ConnectionName, Diagnostic, Span};
use serde_json::Value;

use super::{
    duration::DurationSource,
    expressions::{Compiler, Place},
    model::*,
    program::*,
    reader::did_you_mean,
    tree::{Node, Tree},
    unsupported,
};
use crate::expression::Template;

/// Lowers a whole flow. Faults and warnings go to `compiler`; the program is good where there is no fault.
pub(super) fn program(workflow: &Workflow, compiler: &mut Compiler<'_>) -> Program {
    unsupported::of_flow(workflow, &mut compiler.diagnostics);
    let mut lowering = Lowering {
        components: &workflow.components,
        tasks: Vec::new(),
        lists: Vec::new(),
        locals: Vec::new(),
        compiler,
    };
    let input = lowering.input(workflow.input.as_ref(), Place::FlowInput);
    let root = lowering.list(&workflow.tasks, "/do");
    let output = lowering.output(workflow.output.as_ref(), Place::FlowOutput);
    lowering.unused_components();
    Program {
        definition: workflow.definition.clone(),
        input,
        output,
        root,
        tasks: lowering.tasks.into_iter().flatten().collect(),
        lists: lowering.lists,
    }
}

struct Lowering<'w, 'c, 's> {
    components: &'w Components,
    /// `None` while the task is being lowered; its number is taken before those of its parts.
    tasks: Vec<Option<TaskNode>>,
    lists: Vec<Vec<TaskId>>,
    /// Variables of the loops and handlers around the place.
    locals: Vec<String>,
    compiler: &'c mut Compiler<'s>,
}

impl<'w> Lowering<'w, '_, '_> {
    fn fault(&mut self, code: &'static str, span: Span, message: impl Into<String>, hint: Option<String>) {
        self.compiler.diagnostics.push(Diagnostic { hint, ..Diagnostic::error(code, message, Some(span)) });
    }

    fn list(&mut self, tasks: &'w [Task], pointer: &str) -> ListId {
        let id = ListId(self.lists.len() as u32);
        self.lists.push(Vec::new());
        let mut names: BTreeMap<&str, u32> = BTreeMap::new();
        for (index, task) in tasks.iter().enumerate() {
            let name = task.name.value.as_str();
            if names.insert(name, index as u32).is_some() {
                let hint = Some("'then' finds a task by its name; give each in a list its own".to_owned());
                self.fault(
                    "duplicate-task",
                    task.name.span,
                    format!("there are two tasks '{name}' in this list"),
                    hint,
                );
            }
            if matches!(name, "continue" | "exit" | "end") {
                let message = format!("no 'then' can name this task: '{name}' is a directive");
                self.compiler.diagnostics.push(Diagnostic::warning("reserved-name", message, Some(task.name.span)));
            }
        }
        for (index, task) in tasks.iter().enumerate() {
            let pointer = format!("{pointer}/{index}/{}", escape(&task.name.value));
            let task = self.task(task, pointer, &names);
            self.lists[id.0 as usize].push(task);
        }
        id
    }

    fn task(&mut self, task: &'w Task, pointer: String, siblings: &BTreeMap<&str, u32>) -> TaskId {
        let id = TaskId(self.tasks.len() as u32);
        self.tasks.push(None);
        unsupported::of_task(task, &mut self.compiler.diagnostics);
        let condition = task.condition.as_ref().and_then(|text| self.expression(text, Place::TaskInput));
        let input = self.input(task.input.as_ref(), Place::TaskInput);
        let kind = self.kind(task, &pointer, siblings);
        let output = self.output(task.output.as_ref(), Place::Task);
        let export = self.output(task.export.as_ref(), Place::Export);
        let then = task.then.as_ref().map_or(Directive::Continue, |then| self.directive(then, siblings));
        let name = task.name.value.clone();
        let definition = task.definition.clone();
        let of_input = |template: &Template| template.uses("input") || template.uses("task");
        // A task that cannot be lowered has left a fault, so the program is not used.
        self.tasks[id.0 as usize] = kind.map(|kind| {
            let keeps_input = output.form.as_ref().is_some_and(of_input)
                || export.form.as_ref().is_some_and(of_input)
                || match &kind {
                    Kind::For(for_loop) => {
                        for_loop.condition.clone().map(Template::Expression).is_some_and(|c| of_input(&c))
                    }
                    // Its conditions and its next try look at it.
                    Kind::Try(_) => true,
                    _ => false,
                };
            TaskNode { name, pointer, definition, condition, input, output, export, then, kind, keeps_input }
        });
        id
    }

    fn kind(&mut self, task: &'w Task, pointer: &str, siblings: &BTreeMap<&str, u32>) -> Option<Kind> {
        Some(match &task.kind {
            TaskKind::Call(call) => Kind::Call(self.call(call, task.metadata.as_ref())?),
            TaskKind::Do(tasks) => Kind::Do(self.list(tasks, &format!("{pointer}/do"))),
            TaskKind::For(for_loop) => Kind::For(self.for_loop(for_loop, pointer)?),
            TaskKind::Raise(error) => Kind::Raise(self.raise(error)?),
            TaskKind::Set(node) => Kind::Set(self.set(node)?),
            TaskKind::Switch(cases) => Kind::Switch(self.switch(cases, siblings)),
            TaskKind::Try(block) => Kind::Try(Box::new(self.try_block(block, pointer, siblings)?)),
            // Told as unsupported; what stands inside is checked with the rest.
            TaskKind::Fork(fork) => {
                self.list(&fork.branches, &format!("{pointer}/fork/branches"));
                return None;
            }
            TaskKind::Emit(_) | TaskKind::Listen(_) | TaskKind::Run(_) | TaskKind::Wait(_) => return None,
        })
    }

    fn call(&mut self, call: &Placed<Call>, metadata: Option<&Node>) -> Option<CallStep> {
        let Call::Function { name, arguments } = &call.value else { return None };
        let action = match unsupported::of_function(name, call.span) {
            Ok(action) => action,
            Err(fault) => {
                self.compiler.diagnostics.push(*fault);
                return None;
            }
        };
        let arguments = match arguments {
            Some(node) => self.template(node, Place::Task),
            None => Some(Template::Literal(Value::Object(serde_json::Map::new()))),
        };
        let (mut connection, mut repeat_uncertain) = (None, true);
        let entries = match metadata.map(|node| &node.tree) {
            Some(Tree::Object(entries)) => entries.as_slice(),
            _ => &[],
        };
        const KNOWN: [&str; 2] = ["connection", "onUncertain"];
        for (key, node) in entries {
            match (key.text.as_str(), &node.tree) {
                ("connection", Tree::Text(text)) => match text.parse::<ConnectionName>() {
                    Ok(name) => connection = Some(name),
                    Err(error) => {
                        let message = format!("'{text}' is not the name of a connection");
                        self.fault("bad-value", node.span, message, Some(error.rule.to_owned()));
                    }
                },
                ("onUncertain", Tree::Text(text)) if text == "retry" => {}
                ("onUncertain", Tree::Text(text)) if text == "fail" => repeat_uncertain = false,
                ("connection", _) => {
                    self.fault("bad-value", node.span, "'connection' is the name of a connection", None);
                }
                ("onUncertain", _) => {
                    let hint = "'retry' calls again with the same idempotency key, 'fail' raises an error";
                    self.fault("bad-value", node.span, "'onUncertain' is 'retry' or 'fail'", Some(hint.to_owned()));
                }
                (other, _) => {
                    if let Some(hint) = did_you_mean(other, KNOWN) {
                        let message = format!("'{other}' in the metadata means nothing to Keyward");
                        let warning = Diagnostic::warning("unknown-metadata", message, Some(key.span)).hint(hint);
                        self.compiler.diagnostics.push(warning);
                    }
                }
            }
        }
        Some(CallStep { action, connection, repeat_uncertain, arguments: arguments?, span: call.span })
    }

    fn for_loop(&mut self, for_loop: &'w For, pointer: &str) -> Option<ForLoop> {
        let collection = match &for_loop.collection.tree {
            Tree::Text(text) => {
                let text = Placed { value: text.clone(), span: for_loop.collection.span };
                self.expression(&text, Place::Task).map(Template::Expression)
            }
            _ => self.template(&for_loop.collection, Place::Task),
        };
        let each = self.variable(for_loop.each.as_ref(), "item");
        let at = self.variable(for_loop.at.as_ref(), "index");
        let around = self.locals.len();
        self.locals.extend([each.clone(), at.clone()]);
        let condition = for_loop.condition.as_ref().map(|text| self.expression(text, Place::Task));
        let list = self.list(&for_loop.tasks, &format!("{pointer}/do"));
        self.locals.truncate(around);
        let condition = condition.map_or(Some(None), |condition| condition.map(Some))?;
        Some(ForLoop { each, at, collection: collection?, condition, list })
    }

    fn raise(&mut self, error: &'w ErrorOrName) -> Option<ErrorForm> {
        let components = self.components;
        let definition = match error {
            ErrorOrName::Inline(definition) => definition,
            ErrorOrName::Name(name) => self.named(name, &components.errors, "use.errors")?,
        };
        self.error_form(definition)
    }

    fn error_form(&mut self, error: &ErrorDefinition) -> Option<ErrorForm> {
        let kind = self.text_template(&error.kind);
        let [instance, title, detail] = [&error.instance, &error.title, &error.detail]
            .map(|text| text.as_ref().and_then(|text| self.text_template(text)));
        let status = error.status.value;
        if !(100..=599).contains(&status) {
            let hint = Some("use the HTTP status that describes it best".to_owned());
            self.fault("bad-value", error.status.span, format!("{status} is no status"), hint);
        }
        Some(ErrorForm { kind: kind?, status, instance, title, detail })
    }

    fn set(&mut self, node: &Node) -> Option<Template> {
        let template = self.template(node, Place::Task)?;
        if let (Tree::Text(text), Template::Literal(_)) = (&node.tree, &template) {
            let hint = Some(format!("write it as an expression: ${{ {text} }}"));
            self.fault("bad-value", node.span, "'set' takes an object or an expression", hint);
            return None;
        }
        Some(template)
    }

    fn switch(&mut self, cases: &Named<Case>, siblings: &BTreeMap<&str, u32>) -> Vec<SwitchCase> {
        let mut default = None;
        let mut lowered = Vec::new();
        for (name, case) in cases {
            let then = self.directive(&case.then, siblings);
            let when = match &case.when {
                Some(text) => match self.expression(text, Place::Task) {
                    Some(expression) => Some(expression),
                    None => continue,
                },
                None => {
                    if let Some(first) = default.replace(&name.value) {
                        let message = format!("'{}' has no 'when', and so has '{first}'", name.value);
                        let hint = Some("only one case can be the default".to_owned());
                        self.fault("bad-value", name.span, message, hint);
                    }
                    None
                }
            };
            lowered.push(SwitchCase { when, then });
        }
        lowered
    }

    fn try_block(&mut self, block: &'w Try, pointer: &str, siblings: &BTreeMap<&str, u32>) -> Option<TryBlock> {
        let list = self.list(&block.tasks, &format!("{pointer}/try"));
        let filter = block.filter.as_ref().map_or_else(Filter::default, |filter| {
            let text = |text: &Option<Placed<String>>| text.as_ref().map(|text| text.value.clone());
            Filter {
                kind: text(&filter.kind),
                status: filter.status,
                instance: text(&filter.instance),
                title: text(&filter.title),
                detail: text(&filter.detail),
            }
        });
        let variable = self.variable(block.variable.as_ref(), "error");
        let around = self.locals.len();
        self.locals.push(variable.clone());
        let when = block.when.as_ref().and_then(|text| self.expression(text, Place::Task));
        let except_when = block.except_when.as_ref().and_then(|text| self.expression(text, Place::Task));
        let components = self.components;
        let retry = match &block.retry {
            None => None,
            Some(RetryOrName::Inline(policy)) => Some(self.retry(policy)?),
            Some(RetryOrName::Name(name)) => {
                let policy = self.named(name, &components.retries, "use.retries")?;
                Some(self.retry(policy)?)
            }
        };
        let handler = block.handler.as_ref().map(|tasks| self.list(tasks, &format!("{pointer}/catch/do")));
        self.locals.truncate(around);
        let then = block.then.as_ref().map(|then| self.directive(then, siblings));
        Some(TryBlock { list, filter, variable, when, except_when, retry, handler, then })
    }

    fn retry(&mut self, policy: &RetryPolicy) -> Option<Retry> {
        let when = policy.when.as_ref().and_then(|text| self.expression(text, Place::Task));
        let except_when = policy.except_when.as_ref().and_then(|text| self.expression(text, Place::Task));
        let mut delay = |source: &Option<DurationSource>| match source {
            None => Some(None),
            Some(DurationSource::Fixed(duration)) => Some(Some(Delay::Fixed(*duration))),
            Some(DurationSource::Expression(text)) => {
                self.expression(text, Place::Task).map(|expression| Some(Delay::Expression(expression)))
            }
        };
        let (pause, attempt_time, total_time) =
            (delay(&policy.delay), delay(&policy.attempt_time), delay(&policy.total_time));
        let (from, to) = policy.jitter.clone().unzip();
        let jitter = delay(&from).zip(delay(&to));
        let count = policy.count.as_ref().and_then(|count| match u32::try_from(count.value) {
            Ok(count) if count > 0 => Some(count),
            _ => {
                self.fault("bad-value", count.span, "'count' is how often to try again, 1 or more", None);
                None
            }
        });
        if policy.count.is_none() && policy.total_time.is_none() {
            let message = "this tries again for as long as it fails, without end";
            let hint = "say how often with 'limit: {attempt: {count: 5}}', or how long with 'limit: {duration: PT1H}'";
            let warning = Diagnostic::warning("unbounded-retry", message, Some(policy.span)).hint(hint);
            self.compiler.diagnostics.push(warning);
        }
        let (from, to) = jitter?;
        Some(Retry {
            when,
            except_when,
            delay: pause?,
            backoff: policy.backoff.as_ref().map_or(Backoff::Constant, |backoff| backoff.value),
            count,
            attempt_time: attempt_time?,
            total_time: total_time?,
            jitter: from.zip(to),
        })
    }

    /// Checks the components that nothing refers to; their faults would else wait for their first use.
    fn unused_components(&mut self) {
        let components = self.components;
        self.locals = vec!["error".to_owned()];
        let before = self.compiler.diagnostics.len();
        for (_, policy) in &components.retries {
            self.retry(policy);
        }
        for (_, error) in &components.errors {
            self.error_form(error);
        }
        // What is used has been checked in its place; the same fault is told once.
        let (told, new) = self.compiler.diagnostics.split_at(before);
        let new: Vec<Diagnostic> = new.iter().filter(|fault| !told.contains(fault)).cloned().collect();
        self.compiler.diagnostics.truncate(before);
        self.compiler.diagnostics.extend(new);
    }

    fn named<T>(&mut self, name: &Placed<String>, all: &'w Named<T>, place: &str) -> Option<&'w T> {
        let found = all.iter().find(|(found, _)| found.value == name.value);
        if found.is_none() {
            let hint = did_you_mean(&name.value, all.iter().map(|(name, _)| name.value.as_str()));
            self.fault("unknown-reference", name.span, format!("there is no '{}' in {place}", name.value), hint);
        }
        found.map(|(_, value)| value)
    }

    fn directive(&mut self, then: &Placed<String>, siblings: &BTreeMap<&str, u32>) -> Directive {
        match then.value.as_str() {
            "continue" => Directive::Continue,
            "exit" => Directive::Exit,
            "end" => Directive::End,
            name => match siblings.get(name) {
                Some(index) => Directive::To(*index),
                None => {
                    let hint = did_you_mean(name, siblings.keys().copied().chain(["continue", "exit", "end"]));
                    let hint = hint.unwrap_or_else(|| {
                        let names: Vec<&str> = siblings.keys().copied().collect();
                        format!("'then' names a task of its own list: {}", names.join(", "))
                    });
                    self.fault(
                        "unknown-task",
                        then.span,
                        format!("there is no task '{name}' in this list"),
                        Some(hint),
                    );
                    Directive::Continue
                }
            },
        }
    }

    fn variable(&mut self, name: Option<&Placed<String>>, default: &str) -> String {
        let Some(name) = name else { return default.to_owned() };
        let text = name.value.as_str();
        let identifier = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !identifier {
            let hint = Some("use letters, digits and '_', and no '$'".to_owned());
            self.fault("bad-value", name.span, format!("'{text}' is no name of a variable"), hint);
            return default.to_owned();
        }
        if Place::NAMES.contains(&text) {
            self.fault("bad-value", name.span, format!("${text} has a meaning of its own"), None);
        }
        text.to_owned()
    }

    fn input(&mut self, input: Option<&Input>, place: Place) -> InputForm {
        let Some(input) = input else { return InputForm::default() };
        let schema = input.schema.as_ref().and_then(|schema| self.compiler.schema(schema));
        let from = input.from.as_ref().and_then(|node| self.form(node, place));
        InputForm { schema, from }
    }

    fn output(&mut self, output: Option<&Output>, place: Place) -> OutputForm {
        let Some(output) = output else { return OutputForm::default() };
        let form = output.form.as_ref().and_then(|node| self.form(node, place));
        let schema = output.schema.as_ref().and_then(|schema| self.compiler.schema(schema));
        OutputForm { form, schema }
    }

    /// `from` and `as`: text is an expression, an object has expressions in it.
    fn form(&mut self, node: &Node, place: Place) -> Option<Template> {
        match &node.tree {
            Tree::Text(text) => {
                let text = Placed { value: text.clone(), span: node.span };
                self.expression(&text, place).map(Template::Expression)
            }
            _ => self.template(node, place),
        }
    }

    fn expression(&mut self, text: &Placed<String>, place: Place) -> Option<crate::expression::Expression> {
        self.compiler.expression(text, &place.scope(&self.locals))
    }

    fn template(&mut self, node: &Node, place: Place) -> Option<Template> {
        self.compiler.template(node, &place.scope(&self.locals))
    }

    fn text_template(&mut self, text: &Placed<String>) -> Option<Template> {
        let node = Node { span: text.span, tree: Tree::Text(text.value.clone()) };
        self.template(&node, Place::Task)
    }
}

/// A name as a token of a JSON pointer (RFC 6901, section 3).
fn escape(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}
