//! The tree of a source becomes the model: calls, processes, events and authentication.

use super::{
    model::*,
    reader::{Fields, Reader},
    tree::{Node, Tree},
};

const OUTPUT_FORMS: [&str; 3] = ["raw", "content", "response"];

impl Reader {
    /// `call` and `with` of a task.
    pub(super) fn call(fields: &mut Fields<'_, '_>) -> Option<Placed<Call>> {
        // Known even where the name is bad.
        fields.node("with");
        let name = fields.required("call", Self::name)?;
        // The arguments of a function may be left out, those of the language's own calls may not.
        let value = match name.value.as_str() {
            "asyncapi" => Call::AsyncApi(Box::new(fields.required("with", Self::asyncapi)?)),
            "grpc" => Call::Grpc(Box::new(fields.required("with", Self::grpc)?)),
            "http" => Call::Http(Box::new(fields.required("with", Self::http)?)),
            "openapi" => Call::OpenApi(Box::new(fields.required("with", Self::openapi)?)),
            "a2a" => Call::A2a(Box::new(fields.required("with", Self::a2a)?)),
            "mcp" => Call::Mcp(Box::new(fields.required("with", Self::mcp)?)),
            _ => Call::Function { name: name.value, arguments: fields.optional("with", Self::object) },
        };
        Some(Placed { value, span: name.span })
    }

    fn asyncapi(&mut self, node: &Node) -> Option<AsyncApiCall> {
        let mut fields = self.fields(node, "an AsyncAPI call")?;
        let document = fields.required("document", Self::resource);
        let place = fields.one_of(&["channel", "operation"]);
        let channel = fields.optional("channel", Self::text);
        let operation = fields.optional("operation", Self::text);
        let server = fields.optional("server", |reader, node| {
            let mut fields = reader.fields(node, "a server")?;
            let name = fields.required("name", Self::text);
            let variables = fields.optional("variables", Self::object);
            fields.end()?;
            Some((name?, variables))
        });
        let protocol = fields.optional("protocol", |reader, node| {
            let protocols = [
                "amqp",
                "amqp1",
                "anypointmq",
                "googlepubsub",
                "http",
                "ibmmq",
                "jms",
                "kafka",
                "mercure",
                "mqtt",
                "mqtt5",
                "nats",
                "pulsar",
                "redis",
                "sns",
                "solace",
                "sqs",
                "stomp",
                "ws",
            ];
            reader.choice(node, &protocols)
        });
        let direction = fields.one_of(&["message", "subscription"]);
        let message = fields.optional("message", |reader, node| {
            let mut fields = reader.fields(node, "a message")?;
            let payload = fields.optional("payload", Self::object);
            let headers = fields.optional("headers", Self::object);
            fields.end()?;
            Some((payload, headers))
        });
        let subscription = fields.optional("subscription", Self::subscription);
        let authentication = fields.optional("authentication", |reader, node| reader.authentication(node, true));
        fields.end()?;
        place?;
        direction?;
        Some(AsyncApiCall {
            document: document?,
            channel,
            operation,
            server,
            protocol,
            message,
            subscription,
            authentication,
        })
    }

    fn subscription(&mut self, node: &Node) -> Option<Subscription> {
        let mut fields = self.fields(node, "a subscription")?;
        let filter = fields.optional("filter", Self::text);
        let consume = fields.required("consume", |reader, node| {
            let mut fields = reader.fields(node, "'consume'")?;
            let time = fields.optional("for", Self::duration);
            let until = match fields.one_of(&["amount", "while", "until"])? {
                "amount" => fields.required("amount", Self::integer).map(SubscriptionEnd::Amount),
                "while" => fields.required("while", Self::text).map(SubscriptionEnd::While),
                _ => fields.required("until", Self::text).map(SubscriptionEnd::Until),
            };
            fields.end()?;
            Some((time, until?))
        });
        let iterator = fields.optional("foreach", Self::iterator);
        fields.end()?;
        let (time, until) = consume?;
        Some(Subscription { filter, time, until, iterator })
    }

    fn grpc(&mut self, node: &Node) -> Option<GrpcCall> {
        let mut fields = self.fields(node, "a gRPC call")?;
        let proto = fields.required("proto", Self::resource);
        let service = fields.required("service", |reader, node| {
            let mut fields = reader.fields(node, "a service")?;
            let name = fields.required("name", Self::text);
            let host = fields.required("host", Self::text);
            let port = fields.optional("port", |reader, node| {
                let port = reader.integer(node)?;
                if (0..=65_535).contains(&port) {
                    return Some(port);
                }
                reader.fault("bad-value", node.span, "a port is a number from 0 to 65535")
            });
            let authentication = fields.optional("authentication", |reader, node| reader.authentication(node, true));
            fields.end()?;
            Some((name?, host?, port, authentication))
        });
        let method = fields.required("method", Self::text);
        let arguments = fields.optional("arguments", Self::object);
        fields.end()?;
        let (service, host, port, authentication) = service?;
        Some(GrpcCall { proto: proto?, service, host, port, authentication, method: method?, arguments })
    }

    fn http(&mut self, node: &Node) -> Option<HttpCall> {
        let mut fields = self.fields(node, "an HTTP call")?;
        let method = fields.required("method", Self::text);
        let endpoint = fields.required("endpoint", Self::endpoint);
        let headers = fields.optional("headers", Self::texts_by_name);
        let body = fields.optional("body", Self::any);
        let query = fields.optional("query", Self::texts_by_name);
        let output = fields.optional("output", |reader, node| reader.choice(node, &OUTPUT_FORMS));
        let redirect = fields.optional("redirect", Self::boolean);
        fields.end()?;
        Some(HttpCall { method: method?, endpoint: endpoint?, headers, body, query, output, redirect })
    }

    fn openapi(&mut self, node: &Node) -> Option<OpenApiCall> {
        let mut fields = self.fields(node, "an OpenAPI call")?;
        let document = fields.required("document", Self::resource);
        let operation = fields.required("operationId", Self::text);
        let parameters = fields.optional("parameters", Self::object);
        let authentication = fields.optional("authentication", |reader, node| reader.authentication(node, true));
        let output = fields.optional("output", |reader, node| reader.choice(node, &OUTPUT_FORMS));
        let redirect = fields.optional("redirect", Self::boolean);
        fields.end()?;
        Some(OpenApiCall { document: document?, operation: operation?, parameters, authentication, output, redirect })
    }

    fn a2a(&mut self, node: &Node) -> Option<A2aCall> {
        let mut fields = self.fields(node, "an A2A call")?;
        let agent_card = fields.optional("agentCard", Self::resource);
        let server = fields.optional("server", Self::endpoint);
        let method = fields.required("method", |reader, node| {
            let methods = [
                "message/send",
                "message/stream",
                "tasks/get",
                "tasks/list",
                "tasks/cancel",
                "tasks/resubscribe",
                "tasks/pushNotificationConfig/set",
                "tasks/pushNotificationConfig/get",
                "tasks/pushNotificationConfig/list",
                "tasks/pushNotificationConfig/delete",
                "agent/getAuthenticatedExtendedCard",
            ];
            reader.choice(node, &methods)
        });
        let parameters = fields.optional("parameters", Self::object_or_text);
        fields.end()?;
        Some(A2aCall { agent_card, server, method: method?, parameters })
    }

    fn mcp(&mut self, node: &Node) -> Option<McpCall> {
        let mut fields = self.fields(node, "an MCP call")?;
        let protocol_version = fields.optional("protocolVersion", Self::text);
        let method = fields.required("method", |reader, node| {
            let methods = [
                "tools/list",
                "tools/call",
                "prompts/list",
                "prompts/get",
                "resources/list",
                "resources/read",
                "resources/templates/list",
            ];
            reader.choice(node, &methods)
        });
        let parameters = fields.optional("parameters", Self::object_or_text);
        let timeout = fields.optional("timeout", Self::duration);
        let transport = fields.required("transport", |reader, node| {
            let mut fields = reader.fields(node, "a transport")?;
            let transport = match fields.one_of(&["http", "stdio"])? {
                "http" => fields.required("http", |reader, node| {
                    let mut fields = reader.fields(node, "an HTTP transport")?;
                    let endpoint = fields.required("endpoint", Self::endpoint);
                    let headers = fields.optional("headers", Self::texts_by_name);
                    fields.end()?;
                    Some(McpTransport::Http { endpoint: endpoint?, headers })
                }),
                _ => fields.required("stdio", |reader, node| {
                    let mut fields = reader.fields(node, "a stdio transport")?;
                    let command = fields.required("command", Self::text);
                    let arguments = fields.optional("arguments", Self::texts);
                    let environment = fields.optional("environment", Self::texts_by_name);
                    fields.end()?;
                    Some(McpTransport::Stdio {
                        command: command?,
                        arguments: arguments.unwrap_or_default(),
                        environment,
                    })
                }),
            };
            let options = fields.optional("options", Self::texts_by_name);
            fields.end()?;
            Some((transport?, options))
        });
        let client = fields.optional("client", |reader, node| {
            let mut fields = reader.fields(node, "a client")?;
            let name = fields.required("name", Self::text);
            let version = fields.required("version", Self::text);
            fields.end()?;
            Some((name?, version?))
        });
        fields.end()?;
        let (transport, options) = transport?;
        Some(McpCall { protocol_version, method: method?, parameters, timeout, transport, options, client })
    }

    /// `run`.
    pub(super) fn run(&mut self, node: &Node) -> Option<Run> {
        let mut fields = self.fields(node, "'run'")?;
        let wait = fields.optional("await", Self::boolean);
        let result =
            fields.optional("return", |reader, node| reader.choice(node, &["stdout", "stderr", "code", "all", "none"]));
        let which = fields.one_of(&["container", "script", "shell", "workflow"])?;
        let process = match which {
            "container" => fields.required(which, Self::container).map(|it| Process::Container(Box::new(it))),
            "script" => fields.required(which, Self::script).map(|it| Process::Script(Box::new(it))),
            "shell" => fields.required(which, Self::shell).map(|it| Process::Shell(Box::new(it))),
            _ => fields.required(which, Self::subflow),
        };
        let span = fields.node(which).map_or(node.span, |node| node.span);
        fields.end()?;
        Some(Run { process: Placed { value: process?, span }, wait, result })
    }

    fn container(&mut self, node: &Node) -> Option<Container> {
        let mut fields = self.fields(node, "a container")?;
        let image = fields.required("image", Self::text);
        let name = fields.optional("name", Self::text);
        let command = fields.optional("command", Self::text);
        let ports = fields.optional("ports", Self::object);
        let volumes = fields.optional("volumes", Self::object);
        let environment = fields.optional("environment", Self::object);
        let stdin = fields.optional("stdin", Self::text);
        let arguments = fields.optional("arguments", Self::texts);
        let lifetime = fields.optional("lifetime", |reader, node| {
            let mut fields = reader.fields(node, "a lifetime")?;
            let cleanup =
                fields.required("cleanup", |reader, node| reader.choice(node, &["always", "never", "eventually"]));
            let after = fields.optional("after", Self::duration);
            fields.end()?;
            let cleanup = cleanup?;
            if (cleanup.value == "eventually") != after.is_some() {
                return reader.fault("bad-value", cleanup.span, "'after' belongs to 'cleanup: eventually'");
            }
            Some((cleanup, after))
        });
        let pull_policy =
            fields.optional("pullPolicy", |reader, node| reader.choice(node, &["ifNotPresent", "always", "never"]));
        fields.end()?;
        let (cleanup, cleanup_after) = lifetime.map_or((None, None), |(cleanup, after)| (Some(cleanup), after));
        Some(Container {
            image: image?,
            name,
            command,
            ports,
            volumes,
            environment,
            stdin,
            arguments: arguments.unwrap_or_default(),
            cleanup,
            cleanup_after,
            pull_policy,
        })
    }

    fn script(&mut self, node: &Node) -> Option<Script> {
        let mut fields = self.fields(node, "a script")?;
        let language = fields.required("language", Self::text);
        let which = fields.one_of(&["code", "source"]);
        let code = fields.optional("code", Self::text);
        let source = fields.optional("source", Self::resource);
        let stdin = fields.optional("stdin", Self::text);
        let arguments = fields.optional("arguments", Self::texts);
        let environment = fields.optional("environment", Self::object);
        fields.end()?;
        which?;
        Some(Script { language: language?, code, source, stdin, arguments: arguments.unwrap_or_default(), environment })
    }

    fn shell(&mut self, node: &Node) -> Option<Shell> {
        let mut fields = self.fields(node, "a shell command")?;
        let command = fields.required("command", Self::text);
        let stdin = fields.optional("stdin", Self::text);
        let arguments = fields.optional("arguments", Self::texts);
        let environment = fields.optional("environment", Self::object);
        fields.end()?;
        Some(Shell { command: command?, stdin, arguments: arguments.unwrap_or_default(), environment })
    }

    fn subflow(&mut self, node: &Node) -> Option<Process> {
        let mut fields = self.fields(node, "a workflow to run")?;
        let namespace = fields.required("namespace", Self::text);
        let name = fields.required("name", Self::text);
        let version = fields.required("version", Self::text);
        let input = fields.optional("input", Self::object);
        fields.end()?;
        Some(Process::Workflow { namespace: namespace?, name: name?, version: version?, input })
    }

    /// `emit`: the properties of the event.
    pub(super) fn emit(&mut self, node: &Node) -> Option<Node> {
        let mut fields = self.fields(node, "'emit'")?;
        let event = fields.required("event", |reader, node| {
            let mut fields = reader.fields(node, "an event")?;
            let with = fields.required("with", |reader, node| {
                let properties = reader.event_properties(node)?;
                if properties.get("type").is_none() {
                    return reader.fault("missing-field", node.span, "an event that is emitted needs 'type'");
                }
                Some(properties)
            });
            fields.end()?;
            with
        });
        fields.end()?;
        event
    }

    fn event_properties(&mut self, node: &Node) -> Option<Node> {
        let entries = self.entries(node, "an event's properties")?;
        if entries.is_empty() {
            return self.fault("bad-value", node.span, "an event needs at least one property");
        }
        let standard = ["id", "source", "type", "time", "subject", "datacontenttype", "dataschema"];
        let texts = entries.iter().filter(|(key, _)| standard.contains(&key.text.as_str()));
        let read: Vec<_> = texts.map(|(_, value)| self.text(value)).collect();
        read.into_iter().collect::<Option<Vec<_>>>().map(|_| node.clone())
    }

    /// How an event is read.
    pub(super) fn event_form(&mut self, node: &Node) -> Option<Placed<String>> {
        self.choice(node, &["data", "envelope", "raw"])
    }

    /// Which events are consumed.
    pub(super) fn consumption(&mut self, node: &Node) -> Option<Consumption> {
        let mut fields = self.fields(node, "a choice of events")?;
        let which = fields.one_of(&["all", "any", "one"])?;
        let consumption = match which {
            "all" => fields.required(which, |reader, node| reader.list(node, Self::event_filter)).map(Consumption::All),
            "one" => fields.required(which, Self::event_filter).map(Consumption::One),
            _ => {
                let any = fields.required(which, |reader, node| reader.list(node, Self::event_filter));
                let until = fields.optional("until", |reader, node| match &node.tree {
                    Tree::Text(_) => Some(Until::Condition(reader.text(node)?)),
                    _ if node.get("until").is_some() => {
                        reader.fault("bad-value", node.span, "the events that end it have no 'until' of their own")
                    }
                    _ => Some(Until::Events(Box::new(reader.consumption(node)?))),
                });
                any.map(|any| Consumption::Any(any, until))
            }
        };
        fields.end()?;
        consumption
    }

    fn event_filter(&mut self, node: &Node) -> Option<EventFilter> {
        let mut fields = self.fields(node, "an event filter")?;
        let with = fields.required("with", Self::event_properties);
        let correlate = fields.optional("correlate", |reader, node| {
            reader.by_name(node, |reader, node| {
                let mut fields = reader.fields(node, "a correlation")?;
                let from = fields.required("from", Self::text);
                let expect = fields.optional("expect", Self::text);
                fields.end()?;
                Some((from?, expect))
            })
        });
        fields.end()?;
        Some(EventFilter { with: with?, correlate: correlate.unwrap_or_default() })
    }

    /// `foreach`.
    pub(super) fn iterator(&mut self, node: &Node) -> Option<Iterator> {
        let mut fields = self.fields(node, "'foreach'")?;
        let item = fields.optional("item", Self::name);
        let at = fields.optional("at", Self::name);
        let tasks = fields.optional("do", Self::tasks);
        let output = fields.optional("output", |reader, node| reader.output(node, "an output"));
        let export = fields.optional("export", |reader, node| reader.output(node, "an export"));
        fields.end()?;
        Some(Iterator { item, at, tasks: tasks.unwrap_or_default(), output, export })
    }

    /// An external resource.
    pub(super) fn resource(&mut self, node: &Node) -> Option<Resource> {
        let mut fields = self.fields(node, "a resource")?;
        let name = fields.optional("name", Self::text);
        let endpoint = fields.required("endpoint", Self::endpoint);
        fields.end()?;
        Some(Resource { name, endpoint: endpoint? })
    }

    /// An endpoint: its URI, or an object with it.
    pub(super) fn endpoint(&mut self, node: &Node) -> Option<Endpoint> {
        if let Tree::Text(_) = &node.tree {
            return Some(Endpoint { uri: self.name(node)?, authentication: None });
        }
        let mut fields = self.fields(node, "an endpoint")?;
        let uri = fields.required("uri", Self::name);
        let authentication = fields.optional("authentication", |reader, node| reader.authentication(node, true));
        fields.end()?;
        Some(Endpoint { uri: uri?, authentication })
    }

    /// An authentication policy; by name only where that is `referable`.
    pub(super) fn authentication(&mut self, node: &Node, referable: bool) -> Option<Authentication> {
        let mut fields = self.fields(node, "an authentication")?;
        let schemes = ["basic", "bearer", "digest", "oauth2", "oidc", "use"];
        let which = fields.one_of(if referable { &schemes } else { &schemes[..5] })?;
        let authentication = match which {
            "use" => fields.required(which, Self::name).map(Authentication::Use),
            _ => {
                let policy = fields.required(which, |reader, node| reader.policy(node, which));
                let span = fields.node(which).map_or(node.span, |node| node.span);
                let scheme = Placed { value: which.to_owned(), span };
                policy.map(|policy| Authentication::Scheme { scheme, policy })
            }
        };
        fields.end()?;
        authentication
    }

    fn policy(&mut self, node: &Node, scheme: &str) -> Option<Policy> {
        if node.get("use").is_none() && matches!(scheme, "oauth2" | "oidc") {
            return self.oauth2(node, scheme == "oauth2").map(Policy::OAuth2);
        }
        let mut fields = self.fields(node, "an authentication policy")?;
        let policy = if fields.has("use") {
            fields.required("use", Self::name).map(Policy::Secret)
        } else if scheme == "bearer" {
            fields.required("token", Self::text).map(Policy::Token)
        } else {
            let username = fields.required("username", Self::text);
            let password = fields.required("password", Self::text);
            username.zip(password).map(|(username, password)| Policy::Password(username, password))
        };
        fields.end()?;
        policy
    }

    fn oauth2(&mut self, node: &Node, with_endpoints: bool) -> Option<Node> {
        let token = |reader: &mut Self, node: &Node| {
            let mut fields = reader.fields(node, "a token")?;
            let token = fields.required("token", Self::text);
            let kind = fields.required("type", Self::text);
            fields.end()?;
            token.zip(kind)
        };
        let mut fields = self.fields(node, "an OAuth 2.0 policy")?;
        fields.required("authority", Self::name);
        fields.required("grant", |reader, node| {
            let grants = [
                "authorization_code",
                "client_credentials",
                "password",
                "refresh_token",
                "urn:ietf:params:oauth:grant-type:token-exchange",
            ];
            reader.choice(node, &grants)
        });
        fields.optional("client", |reader, node| {
            let mut fields = reader.fields(node, "a client")?;
            for name in ["id", "secret", "assertion"] {
                fields.optional(name, Self::text);
            }
            fields.optional("authentication", |reader, node| {
                let methods =
                    ["client_secret_basic", "client_secret_post", "client_secret_jwt", "private_key_jwt", "none"];
                reader.choice(node, &methods)
            });
            fields.end()
        });
        fields.optional("request", |reader, node| {
            let mut fields = reader.fields(node, "a token request")?;
            fields.optional("encoding", |reader, node| {
                reader.choice(node, &["application/x-www-form-urlencoded", "application/json"])
            });
            fields.end()
        });
        for name in ["issuers", "scopes", "audiences"] {
            fields.optional(name, Self::texts);
        }
        for name in ["username", "password"] {
            fields.optional(name, Self::text);
        }
        for name in ["subject", "actor"] {
            fields.optional(name, token);
        }
        if with_endpoints {
            fields.optional("endpoints", |reader, node| {
                let mut fields = reader.fields(node, "'endpoints'")?;
                for name in ["token", "revocation", "introspection"] {
                    fields.optional(name, Self::text);
                }
                fields.end()
            });
        }
        fields.end()?;
        Some(node.clone())
    }
}
