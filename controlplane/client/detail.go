package client

import (
	"errors"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	tarnv1 "tarn/proto/tarn/v1"
)

// Detail returns the first detail of type T that the control plane attached to
// err, for example *tarnv1.PlacementFailure or *tarnv1.QuotaExceeded.
func Detail[T proto.Message](err error) (T, bool) {
	var none T
	var rpc *connect.Error
	if !errors.As(err, &rpc) {
		return none, false
	}
	for _, d := range rpc.Details() {
		value, err := d.Value()
		if err != nil {
			continue
		}
		if found, ok := value.(T); ok {
			return found, true
		}
	}
	return none, false
}

// Violations returns every field and rule that a refused request broke.
func Violations(err error) []*tarnv1.FieldViolation {
	var rpc *connect.Error
	if !errors.As(err, &rpc) {
		return nil
	}
	var all []*tarnv1.FieldViolation
	for _, d := range rpc.Details() {
		value, err := d.Value()
		if err != nil {
			continue
		}
		if v, ok := value.(*tarnv1.FieldViolation); ok {
			all = append(all, v)
		}
	}
	return all
}
