package api

import (
	"slices"
	"strings"

	tarnv1 "tarn/proto/tarn/v1"
)

// quotaKeys are the limits that exist (manila semantics 1.10).
func quotaKeys() []string {
	return []string{"shares", "gigabytes", "snapshots", "snapshot_gigabytes", "share_replicas", "replica_gigabytes", "per_share_gigabytes"}
}

// addRecordRules adds share types, snapshots, access rules, quotas and messages.
func addRecordRules(r rules) {
	addTypeRules(r)
	addSnapshotRules(r)
	on(r, func(c *checker, m *tarnv1.AllowAccessRequest) {
		c.optionalID("id", m.GetId())
		c.id("share_id", m.GetShareId())
		if t := m.GetAccessType(); t != "" && t != accessIP {
			c.fail("access_type", "is %q, only ip is served", t)
		}
		if _, ok := canonicalClient(m.GetAccessTo()); !ok {
			c.fail("access_to", "is not an address, nor a prefix without host bits (192.0.2.0/24, 2001:db8::/32)")
		}
		c.metadata(m.GetMetadata())
	})
	on(r, func(c *checker, m *tarnv1.ListAccessRulesRequest) { c.id("share_id", m.GetShareId()) })
	on(r, func(c *checker, m *tarnv1.UpdateAccessRuleRequest) {
		c.id("id", m.GetId())
		if m.GetAccessLevel() == tarnv1.AccessLevel_ACCESS_LEVEL_UNSPECIFIED {
			c.fail("access_level", "is required")
		}
	})
	on(r, func(c *checker, m *tarnv1.GetQuotaRequest) {
		c.optionalID("share_type_id", m.GetShareTypeId())
		c.oneScope(m.GetUserId(), m.GetShareTypeId())
	})
	on(r, (*checker).quota)
	on(r, func(c *checker, m *tarnv1.ListMessagesRequest) {
		c.page(m.GetLimit(), m.GetPageToken())
		c.optionalID("resource_id", m.GetResourceId())
	})
}

func addTypeRules(r rules) {
	on(r, func(c *checker, m *tarnv1.CreateShareTypeRequest) {
		c.optionalID("id", m.GetId())
		c.name("name", m.GetName())
		c.specs(m.GetExtraSpecs())
	})
	on(r, func(c *checker, m *tarnv1.ListShareTypesRequest) { c.page(m.GetLimit(), m.GetPageToken()) })
	on(r, func(c *checker, m *tarnv1.UpdateShareTypeRequest) {
		c.name("id", m.GetId())
		if m.Name != nil {
			c.name("name", m.GetName())
		}
		if m.Name == nil && m.Description == nil && m.IsPublic == nil && m.IsDefault == nil {
			c.fail("name", "nothing to change: give name, description, is_public or is_default")
		}
	})
	on(r, func(c *checker, m *tarnv1.SetExtraSpecsRequest) {
		c.name("id", m.GetId())
		c.specs(m.GetExtraSpecs())
		if len(m.GetExtraSpecs()) == 0 {
			c.fail("extra_specs", "is required")
		}
	})
	on(r, func(c *checker, m *tarnv1.UnsetExtraSpecsRequest) {
		c.name("id", m.GetId())
		c.keys(m.GetKeys())
	})
	on(r, func(c *checker, m *tarnv1.ProjectAccessRequest) {
		c.name("id", m.GetId())
		if !validProject(m.GetProjectId()) {
			c.fail("project_id", "is 1 to 255 bytes of printable text")
		}
	})
}

// specs checks lengths only; what each key means is checked against the whole set.
func (c *checker) specs(specs map[string]string) {
	for k, v := range specs {
		if len(v) == 0 || len(v) > maxName {
			c.fail("extra_specs", "value of %q has %d bytes, 1 to %d are allowed", k, len(v), maxName)
		}
	}
}

func addSnapshotRules(r rules) {
	on(r, func(c *checker, m *tarnv1.CreateSnapshotRequest) {
		c.optionalID("id", m.GetId())
		c.id("share_id", m.GetShareId())
		c.optionalName("name", m.GetName())
		c.metadata(m.GetMetadata())
	})
	on(r, func(c *checker, m *tarnv1.ManageSnapshotRequest) {
		c.optionalID("id", m.GetId())
		c.id("share_id", m.GetShareId())
		c.snapshotName("provider_location", m.GetProviderLocation())
		c.optionalName("name", m.GetName())
		c.metadata(m.GetMetadata())
	})
	on(r, func(c *checker, m *tarnv1.UnmanageSnapshotRequest) { c.id("id", m.GetId()) })
	on(r, func(c *checker, m *tarnv1.ListSnapshotsRequest) {
		c.page(m.GetLimit(), m.GetPageToken())
		c.optionalID("share_id", m.GetShareId())
	})
	on(r, func(c *checker, m *tarnv1.UpdateSnapshotRequest) {
		c.id("id", m.GetId())
		c.optionalName("name", m.GetName())
		if m.Name == nil && m.Description == nil {
			c.fail("name", "nothing to change: give name or description")
		}
	})
	on(r, func(c *checker, m *tarnv1.DeleteSnapshotRequest) { c.id("id", m.GetId()) })
	on(r, func(c *checker, m *tarnv1.ListSnapshotInstancesRequest) {
		c.page(m.GetLimit(), m.GetPageToken())
		c.optionalID("snapshot_id", m.GetSnapshotId())
		c.optionalID("share_id", m.GetShareId())
	})
}

func (c *checker) oneScope(user, shareType string) {
	if user != "" && shareType != "" {
		c.fail("user_id", "and share_type_id exclude each other")
	}
}

func (c *checker) quota(m *tarnv1.QuotaLimits) {
	c.optionalID("share_type_id", m.GetShareTypeId())
	c.oneScope(m.GetUserId(), m.GetShareTypeId())
	if m.GetProjectId() == "" && m.GetUserId()+m.GetShareTypeId() != "" {
		c.fail("project_id", "is required with user_id or share_type_id")
	}
	if len(m.GetLimits()) == 0 {
		c.fail("limits", "is required")
	}
	for key, limit := range m.GetLimits() {
		if !slices.Contains(quotaKeys(), key) {
			c.fail("limits", "%q is not one of %s", key, strings.Join(quotaKeys(), ", "))
		}
		if limit < -1 {
			c.fail("limits", "%s is %d, -1 (unlimited) or more is allowed", key, limit)
		}
	}
}
