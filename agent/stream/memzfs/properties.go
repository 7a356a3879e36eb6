package memzfs

import (
	"context"
	"maps"

	"tarn/zfs"
)

// path is where it is or would be mounted.
func (d *dataset) path() string {
	switch p, own := d.props[zfs.PropMountpoint]; {
	case !own:
		return "/" + d.name
	case p == "none":
		return ""
	default:
		return p
	}
}

// Get shows native and user properties; nothing is inherited here.
func (h *Host) Get(ctx context.Context, name string, props ...string) (out map[string]zfs.Property, err error) {
	err = h.do(ctx, "get", name, func() error {
		d, err := h.get("get", name)
		if err != nil {
			return err
		}
		out = map[string]zfs.Property{}
		for _, p := range props {
			out[p] = zfs.Property{Value: "-", Source: zfs.SourceDefault}
			if v, own := d.props[p]; own {
				out[p] = zfs.Property{Value: v, Source: zfs.SourceLocal}
			}
		}
		return nil
	})
	return out, err
}

// Set writes local properties.
func (h *Host) Set(ctx context.Context, name string, props map[string]string) error {
	return h.do(ctx, "set", name, func() error {
		d, err := h.get("set", name)
		if err == nil {
			maps.Copy(d.props, props)
			for _, limit := range []string{zfs.PropQuota, zfs.PropRefQuota} {
				if props[limit] == "none" {
					delete(d.props, limit) // zfs get calls that the default
				}
			}
		}
		return err
	})
}

// Inherit removes a local property.
func (h *Host) Inherit(ctx context.Context, name, prop string) error {
	return h.do(ctx, "inherit", name, func() error {
		d, err := h.get("inherit", name)
		if err == nil {
			delete(d.props, prop)
		}
		return err
	})
}
