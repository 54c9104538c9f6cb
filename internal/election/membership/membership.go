package membership

import (
	"context"
	"log/slog"
	"net/netip"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/belfrylb/belfry/internal/election"
	"github.com/belfrylb/belfry/internal/lb"
)

// DefaultPort is the port of gossip, UDP and TCP.
const DefaultPort = 7870

// A Config is what a Membership needs to know.
type Config struct {
	// Node is this node's name.
	Node string
	// Bind is the node's own address to gossip on.
	Bind netip.Addr
	// Port is the same on all nodes; 0 is DefaultPort.
	Port uint16
	// Key encrypts gossip (AES-256-GCM). All nodes have the same.
	Key [32]byte
	// Size is how many speakers to expect; it sets the pace of gossip. 0 takes
	// the pace of a small cluster.
	Size int
}

// Local is what this node says of itself.
type Local struct {
	// Interfaces are those it can announce on.
	Interfaces []lb.Interface
	// Leaving is set when it is about to go: others take over its addresses
	// while it still answers for them.
	Leaving bool
	// Owned are the addresses it answers for (as owner or holder).
	Owned []netip.Addr
}

// A Confirmer asks a suspect's own addresses on the segments it is announced
// on. It returns within about 60 ms. It is called from several goroutines.
type Confirmer interface {
	Confirm(ctx context.Context, suspect election.Member) election.Verdict
}

// A Membership is this node's part in gossip.
type Membership struct {
	changed chan struct{}
}

// New returns a Membership; Run runs it. A nil confirmer knows nothing.
func New(cfg Config, log *slog.Logger, reg prometheus.Registerer, confirm Confirmer) (*Membership, error) {
	return &Membership{changed: make(chan struct{}, 1)}, nil
}

// Run takes part until ctx is done, then leaves. It returns early only when it
// cannot start.
func (m *Membership) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Publish replaces what this node says of itself. It does not block; the others
// are told at once.
func (m *Membership) Publish(local Local) {}

// SetPeers replaces the addresses at which other speakers should be; this
// node's own may be among them. Until it was called once, this node is
// election.Joining.
func (m *Membership) SetPeers(peers []netip.Addr) {}

// Members returns the living members sorted by name, this one included. The
// result is shared and must not be changed.
func (m *Membership) Members() []election.Member { return nil }

// Changed has a value after Members changed.
func (m *Membership) Changed() <-chan struct{} { return m.changed }
