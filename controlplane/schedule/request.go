package schedule

import (
	"strings"

	tarnv1 "tarn/proto/tarn/v1"
)

// PoolRef names one pool of one host.
type PoolRef struct {
	HostID string
	Pool   string
}

// Existing is a replica that the share already has.
type Existing struct {
	HostID string
	Pool   string
	Zone   string
}

// Request says what has to be placed.
type Request struct {
	// SizeGiB is the share's size, 1 or more.
	SizeGiB int64
	// ShareProto is matched against the pool's storage_protocol; empty means NFS.
	ShareProto string
	// ExtraSpecs are those of the share's type.
	ExtraSpecs map[string]string
	// ReplicationType is that of the share; UNSPECIFIED asks for no replication.
	ReplicationType tarnv1.ReplicationType
	// AvailabilityZone is the zone that the user named; empty leaves the choice.
	AvailabilityZone string
	// OnlyHost restricts the choice to host@backend#pool, host@backend, a host's
	// name or its id.
	OnlyHost string
	// InPlace: the data are on the pool already, so that no room is asked for.
	InPlace bool
	// Active is the pool of the share's active replica. Set for further replicas.
	Active *PoolRef
	// Existing are the share's replicas, the active one included.
	Existing []Existing
	// SnapshotPools hold the snapshot that the share is made from.
	SnapshotPools []PoolRef
}

// Placement is the pool that was chosen.
type Placement struct {
	HostID string
	Pool   string
	// FullName is host@backend#pool.
	FullName string
	Zone     string
	Domain   string
	Score    Score
}

// Score is what the choice was made by, in order of weight.
type Score struct {
	// SnapshotElsewhere is true when the snapshot cannot be cloned in place.
	SnapshotElsewhere bool
	// ZoneReplicas and HostReplicas count replicas of the same share; fewer is better.
	ZoneReplicas int
	HostReplicas int
	// FreePercent is the share of the pool's virtual capacity that is free, 0-100; more is better.
	FreePercent int
	// Replicas counts what the pool holds already; fewer is better.
	Replicas int
}

// PoolName builds host@backend#pool, the name of a pool everywhere outside the agents.
func PoolName(host, backend, pool string) string {
	if backend == "" {
		return host + "#" + pool
	}
	return host + "@" + backend + "#" + pool
}

func (r *Request) proto() string {
	if r.ShareProto == "" {
		return "NFS"
	}
	return r.ShareProto
}

// derived reports that the data already live on some pool, so that
// share_backend_name must not pin the copy to the same backend.
func (r *Request) derived() bool { return r.Active != nil || len(r.SnapshotPools) > 0 }

// allowedZones returns the zones that the type allows; nil allows all.
func (r *Request) allowedZones() []string {
	return splitList(r.ExtraSpecs[specZones])
}

func (r *Request) zoneReplicas(zone string) int {
	n := 0
	for i := range r.Existing {
		if r.Existing[i].Zone == zone {
			n++
		}
	}
	return n
}

func (r *Request) hostReplicas(hostID string) int {
	n := 0
	for i := range r.Existing {
		if r.Existing[i].HostID == hostID {
			n++
		}
	}
	return n
}

func (r *Request) onPool(hostID, pool string) bool {
	for i := range r.Existing {
		if r.Existing[i].HostID == hostID && r.Existing[i].Pool == pool {
			return true
		}
	}
	return false
}

func splitList(s string) []string {
	var out []string
	for part := range strings.SplitSeq(s, ",") {
		if part = strings.TrimSpace(part); part != "" {
			out = append(out, part)
		}
	}
	return out
}
