package audit

import (
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	raftv1 "tarn/proto/tarn/raft/v1"
)

// maxDetails bounds the details of a record, in bytes.
const maxDetails = 1024

// silent are the verbs that need no record: what hosts report of themselves, and what
// the log does for itself. Nobody decides anything by them.
func silent(cmd *raftv1.Command) bool {
	switch cmd.GetVerb().(type) {
	case nil, *raftv1.Command_Transitions, *raftv1.Command_RegisterHost, *raftv1.Command_CheckHash, *raftv1.Command_InitCluster:
		return true
	}
	return false
}

// Note returns what the record of a command shall say, starting from what the
// proposer has noted already. Nil for commands that need no record.
func Note(cmd *raftv1.Command) *raftv1.AuditNote {
	if silent(cmd) {
		return nil
	}
	out := &raftv1.AuditNote{}
	if given := cmd.GetAudit(); given != nil {
		out = proto.CloneOf(given)
	}
	m := cmd.ProtoReflect()
	verb := m.Get(m.WhichOneof(m.Descriptor().Oneofs().ByName("verb"))).Message()
	fill(&out.ObjectId, objectID(verb))
	fill(&out.OpId, text(verb, "op_id"))
	fill(&out.Reason, findText(verb, "reason"))
	out.Details = Details(verb.Interface())
	return out
}

func fill(into *string, value string) {
	if *into == "" {
		*into = value
	}
}

// objectID is the id that the command is about: its own, its record's, or its share's.
func objectID(m protoreflect.Message) string {
	if id := text(m, "id"); id != "" {
		return id
	}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		if f := fields.Get(i); f.Message() != nil && f.Cardinality() != protoreflect.Repeated && m.Has(f) {
			if id := text(m.Get(f).Message(), "id"); id != "" {
				return id
			}
		}
	}
	for _, name := range []protoreflect.Name{"replica_id", "share_id", "project_id", "host_id"} {
		if id := findText(m, name); id != "" {
			return id
		}
	}
	return ""
}

// findText looks in the message, then one level below.
func findText(m protoreflect.Message, name protoreflect.Name) string {
	if s := text(m, name); s != "" {
		return s
	}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		if f := fields.Get(i); f.Message() != nil && f.Cardinality() != protoreflect.Repeated && m.Has(f) {
			if s := text(m.Get(f).Message(), name); s != "" {
				return s
			}
		}
	}
	return ""
}

func text(m protoreflect.Message, name protoreflect.Name) string {
	f := m.Descriptor().Fields().ByName(name)
	if f == nil || f.Kind() != protoreflect.StringKind || f.Cardinality() == protoreflect.Repeated {
		return ""
	}
	return m.Get(f).String()
}

// Details is the JSON of a message without its secrets, cut at 1 KiB.
func Details(m proto.Message) string {
	data, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(Redact(m))
	if err != nil {
		// Nothing that came through the wire gets here; the record still has its ids.
		return ""
	}
	return cut(string(data))
}

// cut shortens a text to maxDetails, and says so. Twice is as once.
func cut(text string) string {
	if len(text) <= maxDetails {
		return text
	}
	end := maxDetails
	for end > 0 && !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + "…"
}

// Redact returns a copy of m without any field that is marked debug_redact, at any depth.
func Redact(m proto.Message) proto.Message {
	out := proto.Clone(m)
	redact(out.ProtoReflect())
	return out
}

func redact(m protoreflect.Message) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case secret(f):
			m.Clear(f)
		case f.IsMap():
			if f.MapValue().Message() != nil {
				v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool { redact(v.Message()); return true })
			}
		case f.Message() != nil && f.IsList():
			for i := range v.List().Len() {
				redact(v.List().Get(i).Message())
			}
		case f.Message() != nil:
			redact(v.Message())
		}
		return true
	})
}

func secret(f protoreflect.FieldDescriptor) bool {
	o, ok := f.Options().(*descriptorpb.FieldOptions)
	return ok && o.GetDebugRedact()
}
