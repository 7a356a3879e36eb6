package raftfsm

import (
	"strings"

	tarnv1 "tarn/proto/tarn/v1"
)

// The words of Manila for enums, as messages use them.

func statusWord(s tarnv1.Status) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "STATUS_"))
}

func stateWord(s tarnv1.ReplicaState) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "REPLICA_STATE_"))
}

func adminStateWord(s tarnv1.HostAdminState) string {
	switch s {
	case tarnv1.HostAdminState_HOST_ADMIN_STATE_ENABLED:
		return "enabled"
	case tarnv1.HostAdminState_HOST_ADMIN_STATE_DISABLED:
		return "disabled"
	case tarnv1.HostAdminState_HOST_ADMIN_STATE_DRAINING:
		return "draining"
	}
	return "unspecified"
}
