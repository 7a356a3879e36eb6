package raftfsm

import (
	"google.golang.org/protobuf/proto"

	raftv1 "tarn/proto/tarn/raft/v1"
)

// apply runs the command's verb. Every verb reads its guards from the state, so
// that what two proposers planned at once is decided here, once.
func (tx *txn) apply(cmd *raftv1.Command) (proto.Message, *Error) {
	switch v := cmd.GetVerb().(type) {
	case *raftv1.Command_Transitions:
		return nil, tx.transitions(v.Transitions)
	case *raftv1.Command_InitCluster:
		return nil, tx.initCluster(v.InitCluster)
	case *raftv1.Command_SetCommandVersion:
		tx.setCommandVersion(v.SetCommandVersion)
		return nil, nil
	case *raftv1.Command_SetLeaseWait:
		return nil, tx.setLeaseWait(v.SetLeaseWait, cmd.GetProposerTerm())
	case *raftv1.Command_CheckHash:
		return nil, nil
	case *raftv1.Command_PutShareType:
		return answer(tx.putShareType(v.PutShareType))
	case *raftv1.Command_DeleteShareType:
		return nil, tx.deleteShareType(v.DeleteShareType)
	case *raftv1.Command_PutQuota:
		return answer(tx.putQuota(v.PutQuota))
	case *raftv1.Command_ResetQuota:
		return nil, tx.resetQuota(v.ResetQuota)
	case *raftv1.Command_DeleteMessage:
		return nil, tx.deleteMessage(v.DeleteMessage)
	case *raftv1.Command_PutJoinToken:
		return answer(tx.putJoinToken(v.PutJoinToken))
	case *raftv1.Command_UseJoinToken:
		return answer(tx.useJoinToken(v.UseJoinToken))
	case *raftv1.Command_PutUser:
		return answer(tx.createUser(v.PutUser))
	case *raftv1.Command_RevokeUser:
		return answer(tx.revokeUser(v.RevokeUser))
	case *raftv1.Command_RegisterHost:
		return answer(tx.registerHost(v.RegisterHost))
	case *raftv1.Command_SetHostAdminState:
		return answer(tx.setHostAdminState(v.SetHostAdminState))
	case *raftv1.Command_RemoveHost:
		return nil, tx.removeHost(v.RemoveHost)
	case *raftv1.Command_PurgeDivergentCopy:
		return answer(tx.purgeDivergentCopy(v.PurgeDivergentCopy, cmd.GetActor()))
	}
	return tx.applyShare(cmd)
}

func (tx *txn) applyShare(cmd *raftv1.Command) (proto.Message, *Error) {
	switch v := cmd.GetVerb().(type) {
	case *raftv1.Command_CreateShare:
		return answer(tx.createShare(v.CreateShare))
	case *raftv1.Command_UpdateShare:
		return answer(tx.updateShare(v.UpdateShare))
	case *raftv1.Command_DeleteShare:
		return answer(tx.deleteShare(v.DeleteShare))
	case *raftv1.Command_UnmanageShare:
		return answer(tx.unmanageShare(v.UnmanageShare))
	case *raftv1.Command_ResizeShare:
		return answer(tx.resizeShare(v.ResizeShare))
	case *raftv1.Command_ResetShareStatus:
		return answer(tx.resetShareStatus(v.ResetShareStatus))
	case *raftv1.Command_AllowAccess:
		return answer(tx.allowAccess(v.AllowAccess))
	case *raftv1.Command_UpdateAccess:
		return answer(tx.updateAccess(v.UpdateAccess))
	case *raftv1.Command_DenyAccess:
		return answer(tx.denyAccess(v.DenyAccess))
	case *raftv1.Command_CreateSnapshot:
		return answer(tx.createSnapshot(v.CreateSnapshot))
	case *raftv1.Command_UpdateSnapshot:
		return answer(tx.updateSnapshot(v.UpdateSnapshot))
	case *raftv1.Command_DeleteSnapshot:
		return answer(tx.deleteSnapshot(v.DeleteSnapshot))
	case *raftv1.Command_UnmanageSnapshot:
		return answer(tx.unmanageSnapshot(v.UnmanageSnapshot))
	case *raftv1.Command_ResetSnapshotStatus:
		return answer(tx.resetSnapshotStatus(v.ResetSnapshotStatus))
	}
	return tx.applyReplica(cmd)
}

func (tx *txn) applyReplica(cmd *raftv1.Command) (proto.Message, *Error) {
	switch v := cmd.GetVerb().(type) {
	case *raftv1.Command_CreateReplica:
		return answer(tx.createReplica(v.CreateReplica))
	case *raftv1.Command_UpdateReplicaMetadata:
		return answer(tx.updateReplicaMetadata(v.UpdateReplicaMetadata))
	case *raftv1.Command_DeleteReplica:
		return answer(tx.deleteReplica(v.DeleteReplica))
	case *raftv1.Command_UnmanageReplica:
		return answer(tx.unmanageReplica(v.UnmanageReplica))
	case *raftv1.Command_ResyncReplica:
		return answer(tx.resyncReplica(v.ResyncReplica))
	case *raftv1.Command_ResetReplicaStatus:
		return answer(tx.resetReplicaStatus(v.ResetReplicaStatus))
	case *raftv1.Command_ResetReplicaState:
		return answer(tx.resetReplicaState(v.ResetReplicaState))
	case *raftv1.Command_PromoteReplica:
		return answer(tx.promoteReplica(v.PromoteReplica, cmd.GetActor()))
	case *raftv1.Command_DismissUnknownReplica:
		return answer(tx.dismissUnknown(v.DismissUnknownReplica, cmd.GetActor()))
	case *raftv1.Command_CancelPromotion:
		return answer(tx.cancelPromotion(v.CancelPromotion))
	case *raftv1.Command_CommitDemotion:
		return answer(tx.commitDemotion(v.CommitDemotion))
	case *raftv1.Command_CommitSeal:
		return answer(tx.commitSeal(v.CommitSeal))
	case *raftv1.Command_CommitProof:
		return answer(tx.commitProof(v.CommitProof))
	case *raftv1.Command_Activate:
		return answer(tx.activate(v.Activate))
	}
	return nil, refuse(InvalidArgument, "verb", "this build has no such verb")
}

// answer keeps a nil record out of the interface.
func answer[M interface {
	comparable
	proto.Message
}](m M, err *Error) (proto.Message, *Error) {
	var none M
	if err != nil || m == none {
		return nil, err
	}
	return m, nil
}
