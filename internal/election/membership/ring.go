package membership

import (
	"sync"

	"github.com/hashicorp/memberlist"

	"github.com/belfrylb/belfry/internal/gossipkey"
)

// A ring is the keys in use. memberlist's own never has three: it then changes a list in
// place that others read (docs/design/gossip-keys.md).
type ring struct {
	mu   sync.Mutex
	is   gossipkey.Ring
	keys *memberlist.Keyring
}

func newRing(is gossipkey.Ring) *ring {
	r := &ring{keys: &memberlist.Keyring{}}
	r.set(is)
	return r
}

// set replaces the keys. A Keyring refuses keys of a wrong length, and to use or remove
// what it does not have or sends with: none of these happens here.
func (r *ring) set(to gossipkey.Ring) {
	r.mu.Lock()
	defer r.mu.Unlock()
	send, other := r.is.Send, r.is.Also
	if to.Send != send && to.Send != other {
		r.remove(other)
		_ = r.keys.AddKey(to.Send[:])
		other = to.Send
	}
	_ = r.keys.UseKey(to.Send[:])
	if to.Send != send {
		other = send
	}
	if other != to.Also {
		r.remove(other)
		if !to.Also.None() {
			_ = r.keys.AddKey(to.Also[:])
		}
	}
	r.is = to
}

func (r *ring) remove(k gossipkey.Key) {
	if !k.None() {
		_ = r.keys.RemoveKey(k[:])
	}
}

// SetKeys replaces the keys of gossip; they are in use when it returns.
func (m *Membership) SetKeys(keys gossipkey.Ring) { m.ring.set(keys) }
