package reconcile

import (
	"google.golang.org/protobuf/types/known/timestamppb"

	tarnv1 "tarn/proto/tarn/v1"
)

// Actions and details of user messages (manila semantics 8.4).
const (
	actionAllocate = "001"
	actionCreate   = "002"
	actionPromote  = "004"
	actionUpdate   = "005"
	actionDelete   = "007"

	detailUnknown     = "001"
	detailNoValidHost = "002"
	// detailDriver is Manila's "storage driver" class: the host could not do it.
	detailDriver = "010"
)

// resource names what a message is about.
type resource struct{ kind, id string }

func resourceOf(s *shareFacts, rep *tarnv1.Replica) resource {
	if s.GetReplicationType() == tarnv1.ReplicationType_REPLICATION_TYPE_UNSPECIFIED {
		return shareResource(s)
	}
	return resource{"SHARE_REPLICA", rep.GetId()}
}

func shareResource(s *shareFacts) resource          { return resource{"SHARE", s.GetId()} }
func snapshotResource(snap *snapshotFacts) resource { return resource{"SHARE_SNAPSHOT", snap.GetId()} }

// complain adds a message for the users of the share's project. It is only
// called beside a transition, so that it is said once.
func (r *round) complain(s *shareFacts, about resource, action, detail, text string) {
	r.batch.Messages = append(r.batch.Messages, r.message(s, about, action, detail, text, ""))
}

func (r *round) message(s *shareFacts, about resource, action, detail, text, requestID string) *tarnv1.UserMessage {
	return &tarnv1.UserMessage{
		Id: r.ids(), ProjectId: s.GetProjectId(), ActionId: action, DetailId: detail, MessageLevel: "ERROR",
		CreatedAt: timestamppb.New(r.now), ExpiresAt: r.until(r.policy.MessageTTL), RequestId: requestID,
		ResourceType: about.kind, ResourceId: about.id, UserMessage: text,
	}
}

// Sentence says an agent's error to users. The agent's own words may name
// datasets and hosts, which are for operators.
func Sentence(e *tarnv1.ReplicaError) string {
	switch e.GetCode() {
	case tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_OUT_OF_SPACE:
		return "The storage pool is full. Ask the operator for space."
	case tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_QUOTA_EXCEEDED:
		return "The data do not fit into the share's size. Extend the share or remove data."
	case tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_DATASET_BUSY:
		return "Files of the share are in use on its host, which keeps it from being changed."
	case tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_DATASET_MISSING:
		return "The replica's data are missing on its host, or were renamed there. Ask the operator to restore them, or go on with another replica and delete this one."
	case tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_POOL_UNAVAILABLE:
		return "The storage pool is not available. Ask the operator."
	case tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_DIVERGED:
		return "The replica holds data that are not in the share's history. They are kept aside; ask the operator."
	case tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_NO_COMMON_SNAPSHOT:
		return "The replica has no snapshot in common with the active one. Delete it and create another."
	case tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_STREAM_CORRUPT:
		return "What the replica receives arrives damaged. Its data are whole up to the last snapshot; ask the operator to look at the network and the pools."
	case tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_STREAM_REFUSED:
		return "The replica refuses what its source sends. Its data are whole up to the last snapshot; ask the operator to look at both hosts."
	case tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_STORAGE_UNRESPONSIVE:
		return "The storage of the host does not answer as it should. Ask the operator."
	case tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_SOURCE_UNREACHABLE:
		return "The replica cannot reach the active one. It goes on by itself when the way between them is open again."
	case tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_STALLED:
		return "The active replica sends nothing more. It goes on by itself when its storage or the network does."
	case tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_EXPORT_FAILED:
		return "The share could not be exported by its host. Ask the operator."
	case tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_PERMISSION_DENIED:
		return "The storage host lacks a permission that it needs. Ask the operator."
	case tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_UNSUPPORTED:
		return "The storage host does not support what the share needs. Ask the operator."
	case tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_KEY_UNAVAILABLE:
		return "The key of the encrypted share is not on its storage host, or does not fit. Ask the operator to copy the key file there."
	case tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_DATA_DAMAGED:
		return "The storage pool has found data of the share that it cannot read. Ask the operator; other replicas may be whole."
	case tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_SOURCE_ROLLED_BACK:
		return "The active replica was taken back to an earlier state. This replica still has the later one; ask the operator before the share is written again."
	case tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_NOT_MANAGEABLE:
		return "The dataset cannot be taken over or given back as it is. The replica's error says what to change."
	}
	return "The storage host could not do it. Ask the operator; the replica's error says more."
}

// fault is what keeps a secondary from following, its own trouble or its source's;
// nil when no storage is at fault.
func (s *shareFacts) fault(report *tarnv1.ReplicaReport) *tarnv1.ReplicaError {
	for _, e := range []*tarnv1.ReplicaError{report.GetError(), s.report(s.owner()).GetError()} {
		if storageFault(e) {
			return e
		}
	}
	return nil
}

// storageFault reports an error that the agent retries but that somebody has to
// mend. One that comes and goes with a network or a source is no news to users.
func storageFault(e *tarnv1.ReplicaError) bool {
	switch e.GetCode() {
	case tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_OUT_OF_SPACE,
		tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_QUOTA_EXCEEDED,
		tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_POOL_UNAVAILABLE,
		tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_DATASET_MISSING, // renamed
		tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_STREAM_CORRUPT,
		tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_STREAM_REFUSED,
		tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_STORAGE_UNRESPONSIVE,
		tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_KEY_UNAVAILABLE,
		tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_DATA_DAMAGED:
		return true
	}
	return false
}

func deleteFailed(e *tarnv1.ReplicaError) string {
	if e.GetCode() == tarnv1.ReplicaErrorCode_REPLICA_ERROR_CODE_DATASET_BUSY {
		return "The replica could not be deleted: files of it are in use on its host."
	}
	return "The replica could not be deleted on its host. Ask the operator, or delete it with force."
}
