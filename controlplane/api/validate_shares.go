package api

import (
	"slices"
	"strings"
	"time"

	tarnv1 "tarn/proto/tarn/v1"
	"tarn/proto/tarn/v1/tarnv1connect"
)

// addShareRules adds the requests about shares and their replicas.
func addShareRules(r rules) {
	on(r, func(c *checker, m *tarnv1.GetRequest) { c.reference(m.GetId()) })
	on(r, func(c *checker, m *tarnv1.CreateShareRequest) {
		c.optionalID("id", m.GetId())
		c.optionalName("name", m.GetName())
		c.sizeGiB("size_gib", m.GetSizeGib())
		c.shareProto("share_proto", m.GetShareProto())
		c.optionalID("snapshot_id", m.GetSnapshotId())
		c.metadata(m.GetMetadata())
		c.optionalName("only_host", m.GetOnlyHost())
	})
	on(r, func(c *checker, m *tarnv1.ListSharesRequest) {
		c.page(m.GetLimit(), m.GetPageToken())
		c.optionalID("share_type_id", m.GetShareTypeId())
		c.optionalID("snapshot_id", m.GetSnapshotId())
		if !slices.Contains(shareSorts(), strings.TrimPrefix(m.GetSort(), "-")) {
			c.fail("sort", "is %q, created_at, name and size_gib are known, each with a leading - for descending", m.GetSort())
		}
	})
	on(r, func(c *checker, m *tarnv1.UpdateShareRequest) {
		c.id("id", m.GetId())
		c.optionalName("name", m.GetName())
		if m.Name == nil && m.Description == nil && m.IsPublic == nil {
			c.fail("name", "nothing to change: give name, description or is_public")
		}
	})
	on(r, func(c *checker, m *tarnv1.DeleteShareRequest) { c.id("id", m.GetId()) })
	on(r, func(c *checker, m *tarnv1.ResizeShareRequest) {
		c.id("id", m.GetId())
		c.sizeGiB("new_size_gib", m.GetNewSizeGib())
	})
	on(r, func(c *checker, m *tarnv1.SetMetadataRequest) {
		c.id("id", m.GetId())
		c.metadata(m.GetMetadata())
		if len(m.GetMetadata()) == 0 && !m.GetReplace() {
			c.fail("metadata", "is required unless replace is set")
		}
	})
	on(r, func(c *checker, m *tarnv1.UnsetMetadataRequest) {
		c.id("id", m.GetId())
		c.keys(m.GetKeys())
	})
	on(r, func(c *checker, m *tarnv1.ResetStatusRequest) {
		c.id("id", m.GetId())
		c.resettable(m.GetStatus())
	})
	on(r, func(c *checker, m *tarnv1.ManageShareRequest) { c.managed("", m) })
	on(r, func(c *checker, m *tarnv1.ManageSharePreviewRequest) {
		c.managed("share.", m.GetShare())
		c.patience(m.GetMaxWait())
	})
	on(r, func(c *checker, m *tarnv1.UnmanageShareRequest) { c.id("id", m.GetId()) })
	addReplicaRules(r)
}

// managed checks what is to be taken over; fields are named with a prefix.
func (c *checker) managed(prefix string, m *tarnv1.ManageShareRequest) {
	c.optionalID(prefix+"id", m.GetId())
	c.dataset(prefix+"dataset", m.GetDataset())
	c.name(prefix+"host", m.GetHost())
	c.optionalName(prefix+"name", m.GetName())
	if m.GetSizeGib() != 0 {
		c.sizeGiB(prefix+"size_gib", m.GetSizeGib())
	}
	c.shareProto(prefix+"share_proto", m.GetShareProto())
	c.metadata(m.GetMetadata())
}

func (c *checker) shareProto(field, p string) {
	if p != "" && !strings.EqualFold(p, protoNFS) {
		c.fail(field, "is %q, only NFS is served", p)
	}
}

// dataset checks the full name of a filesystem below a pool (zfs replication 1.0).
func (c *checker) dataset(field, v string) {
	if !c.required(field, v) {
		return
	}
	parts := strings.Split(v, "/")
	if len(parts) < 2 {
		c.fail(field, "is %q, a whole pool cannot be taken over: name a dataset below it, as pool/dataset", v)
	}
	for _, part := range parts {
		if part == "" || part == "." || part == ".." || part[0] == '-' || strings.Trim(part, datasetBytes) != "" {
			c.fail(field, "is not the name of a dataset: parts of letters, digits and _.:- joined by slashes")
		}
	}
}

// snapshotName checks what follows the @ of a snapshot, with or without what precedes it.
func (c *checker) snapshotName(field, v string) {
	name := v[strings.LastIndexByte(v, '@')+1:]
	switch {
	case !c.required(field, name):
	case name[0] == '-' || name == "." || name == ".." || strings.Trim(name, datasetBytes) != "":
		c.fail(field, "is not the name of a snapshot: letters, digits and _.:-, or dataset@name")
	case strings.HasPrefix(name, "tarn.") || strings.HasPrefix(name, "tarn-"):
		c.fail(field, "is one of tarn's own")
	}
}

const datasetBytes = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.:-"

func addReplicaRules(r rules) {
	on(r, func(c *checker, m *tarnv1.CreateReplicaRequest) {
		c.optionalID("id", m.GetId())
		c.id("share_id", m.GetShareId())
		c.metadata(m.GetMetadata())
		c.optionalName("only_host", m.GetOnlyHost())
		if m.GetFromDataset() != "" {
			c.dataset("from_dataset", m.GetFromDataset())
			if m.GetOnlyHost() == "" {
				c.fail("only_host", "is required with from_dataset: name the host that has the dataset")
			}
		}
	})
	on(r, func(c *checker, m *tarnv1.UnmanageReplicaRequest) { c.id("id", m.GetId()) })
	on(r, func(c *checker, m *tarnv1.ManageReplicaPreviewRequest) {
		c.id("share_id", m.GetShareId())
		c.name("only_host", m.GetOnlyHost())
		c.dataset("from_dataset", m.GetFromDataset())
		c.patience(m.GetMaxWait())
	})
	on(r, func(c *checker, m *tarnv1.ListReplicasRequest) {
		c.page(m.GetLimit(), m.GetPageToken())
		c.optionalID("share_id", m.GetShareId())
	})
	on(r, (*checker).promotion)
	on(r, func(c *checker, m *tarnv1.CancelPromotionRequest) {
		c.id("share_id", m.GetShareId())
		c.optionalID("op_id", m.GetOpId())
	})
	on(r, func(c *checker, m *tarnv1.DeleteReplicaRequest) { c.id("id", m.GetId()) })
	on(r, func(c *checker, m *tarnv1.ResetReplicaStateRequest) {
		c.id("id", m.GetId())
		switch m.GetReplicaState() {
		case tarnv1.ReplicaState_REPLICA_STATE_UNSPECIFIED:
			c.fail("replica_state", "is required")
		case tarnv1.ReplicaState_REPLICA_STATE_ACTIVE:
			c.fail("replica_state", "cannot be reset to active: promote the replica")
		}
	})
}

// Bounds of a consent: it goes into the log.
const (
	maxLostGuids = 1000
	maxReason    = 1024
)

func (c *checker) promotion(m *tarnv1.PromoteReplicaRequest) {
	c.id("id", m.GetId())
	c.optionalID("op_id", m.GetOpId())
	if wait := m.GetQuiesceWaitTime(); wait.AsDuration() != 0 {
		c.span("quiesce_wait_time", wait, time.Second, time.Hour)
		if m.GetForce() {
			c.fail("quiesce_wait_time", "is for planned promotions: a forced one waits for the lease")
		}
	}
	if m.GetConsent() != nil && !m.GetForce() {
		c.fail("consent", "is for forced promotions: a planned one loses nothing")
	}
	c.span("consent.max_loss", m.GetConsent().GetMaxLoss(), 0, 10*365*24*time.Hour)
	if n := len(m.GetConsent().GetLostGuids()); n > maxLostGuids {
		c.fail("consent.lost_guids", "has %d, at most %d are allowed", n, maxLostGuids)
	}
	if n := len(m.GetConsent().GetReason()); n > maxReason {
		c.fail("consent.reason", "has %d bytes, at most %d are allowed", n, maxReason)
	}
	if m.GetAtOnce() && m.GetForce() {
		c.fail("at_once", "is for planned promotions: a forced one waits for nothing of its target")
	}
	if m.GetAttestHostIsDown() && !m.GetForce() {
		c.fail("attest_host_is_down", "needs force")
	}
	if m.GetAttestHostIsDown() && m.GetConsent().GetReason() == "" {
		c.fail("consent.reason", "is required with attest_host_is_down: say how you made sure")
	}
}

// reference checks what a GetRequest names: types and hosts also go by name.
func (c *checker) reference(id string) {
	if c.namesAllowed() {
		c.name("id", id)
		return
	}
	c.id("id", id)
}

func (c *checker) namesAllowed() bool {
	return strings.HasPrefix(c.procedure, "/"+tarnv1connect.ShareTypeServiceName+"/") ||
		strings.HasPrefix(c.procedure, "/"+tarnv1connect.HostServiceName+"/")
}

// resettable allows what Manila's reset-state allows. Migration has no meaning here.
func (c *checker) resettable(s tarnv1.Status) {
	allowed := []tarnv1.Status{
		tarnv1.Status_STATUS_CREATING, tarnv1.Status_STATUS_AVAILABLE, tarnv1.Status_STATUS_DELETING,
		tarnv1.Status_STATUS_ERROR, tarnv1.Status_STATUS_ERROR_DELETING,
	}
	if !slices.Contains(allowed, s) {
		c.fail("status", "is %s; creating, available, deleting, error and error_deleting may be set", s)
	}
}
