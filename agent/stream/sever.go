package stream

import (
	"context"
	"fmt"
)

// Sever ends everything that is under way with a host that ClientConfig.Refuse refuses by
// now, plain streams too, and closes its connections. Receivers see why.
func (c *Client) Sever(hostID string) {
	c.mu.Lock()
	h, met := c.hosts[hostID]
	c.mu.Unlock()
	if !met {
		return
	}
	h.end(c.refuse(hostID))
	h.bulk.CloseIdleConnections()
	h.poll.CloseIdleConnections()
}

// refuse is why a host is not asked; the error wraps ErrDenied.
func (c *Client) refuse(hostID string) error {
	if c.cfg.Refuse == nil {
		return nil
	}
	if err := c.cfg.Refuse(hostID); err != nil {
		return fmt.Errorf("source: %w: %w", err, ErrDenied)
	}
	return nil
}

// begin is the context of one request, until cancel or end. It comes before the request
// is refused: whatever end does not find asks after it, and is refused then.
func (h *hostClients) begin(parent context.Context) (context.Context, context.CancelCauseFunc) {
	ctx, cancel := context.WithCancelCause(parent)
	h.mu.Lock()
	h.running[&cancel] = struct{}{}
	h.mu.Unlock()
	context.AfterFunc(ctx, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.running, &cancel)
	})
	return ctx, cancel
}

func (h *hostClients) end(why error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for cancel := range h.running {
		(*cancel)(why) // what follows from it waits for the lock, elsewhere
	}
}
