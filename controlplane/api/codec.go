package api

import (
	"fmt"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// strictJSON is Connect's JSON, but for fields that the request does not have: who
// writes "size" for "size_gib" is told so, instead of believing that it was heeded.
type strictJSON struct{ name string }

// strictly serves people's methods; machines are upgraded one by one and must get on.
func strictly() connect.HandlerOption {
	return connect.WithHandlerOptions(
		connect.WithCodec(strictJSON{"json"}),
		connect.WithCodec(strictJSON{"json; charset=utf-8"}),
	)
}

// Name implements connect.Codec.
func (c strictJSON) Name() string { return c.name }

// Marshal implements connect.Codec.
func (c strictJSON) Marshal(msg any) ([]byte, error) {
	m, ok := msg.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("encode %T: not a protobuf message", msg)
	}
	return protojson.Marshal(m)
}

// Unmarshal implements connect.Codec.
func (c strictJSON) Unmarshal(data []byte, msg any) error {
	m, ok := msg.(proto.Message)
	if !ok {
		return fmt.Errorf("decode %T: not a protobuf message", msg)
	}
	if len(data) == 0 {
		return fmt.Errorf("no JSON: send at least {}")
	}
	return protojson.Unmarshal(data, m)
}
