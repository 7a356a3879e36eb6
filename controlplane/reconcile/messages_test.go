package reconcile

import (
	"strings"
	"testing"

	tarnv1 "tarn/proto/tarn/v1"
)

// TestEverySentence: users hear of each class of failure in words of their own, and
// never an agent's, which name datasets and hosts.
func TestEverySentence(t *testing.T) {
	const secret = "tank/tarn/0b5c"
	seen := map[string]string{}
	for number, name := range tarnv1.ReplicaErrorCode_name {
		code := tarnv1.ReplicaErrorCode(number)
		text := Sentence(&tarnv1.ReplicaError{Code: code, Message: secret})
		if strings.Contains(text, secret) || !strings.HasSuffix(text, ".") {
			t.Errorf("%s: %q", name, text)
		}
		if code == tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_UNSPECIFIED || code == tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_INTERNAL {
			continue
		}
		if other, twice := seen[text]; twice {
			t.Errorf("%s and %s are told alike: %q", name, other, text)
		}
		seen[text] = name
	}
	if general := Sentence(nil); seen[general] != "" {
		t.Errorf("%s has no sentence of its own", seen[general])
	}
}
