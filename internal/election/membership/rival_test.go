package membership

import (
	"io"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
)

// A rival is a cluster of memberlist alone by its own settings for a LAN, to
// compare with.
type rival struct {
	w     *world
	nodes []*memberlist.Memberlist
	ends  []*endpoint

	mu   sync.Mutex
	lost []event
}

// A rivalEvents is what one node of it is told.
type rivalEvents struct {
	*rival
	host int
}

func (rivalEvents) NotifyJoin(*memberlist.Node)   {}
func (rivalEvents) NotifyUpdate(*memberlist.Node) {}

func (r rivalEvents) NotifyLeave(n *memberlist.Node) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lost = append(r.lost, event{at: time.Now(), by: r.host, of: n.Name})
}

// newRival starts one in the network of a world that has no members.
func newRival(t testing.TB, size int) *rival {
	t.Helper()
	r := &rival{w: newWorld(t, *seed)}
	for h := range size {
		conf := memberlist.DefaultLANConfig()
		conf.Name, conf.SecretKey, conf.LogOutput = r.w.node(h), testKeys.Send[:], io.Discard
		conf.BindAddr = r.w.addr(h).String()
		conf.Events = rivalEvents{r, h}
		end := r.w.lan.open(netip.AddrPortFrom(r.w.addr(h), uint16(conf.BindPort)))
		conf.Transport = end
		node, err := memberlist.Create(conf)
		if err != nil {
			t.Fatal(err)
		}
		r.nodes, r.ends = append(r.nodes, node), append(r.ends, end)
		if h > 0 {
			if _, err := node.Join([]string{hostPort(r.w.addr(0), uint16(conf.BindPort))}); err != nil {
				t.Fatal(err)
			}
		}
	}
	return r
}

// measure returns what its nodes spend while nothing happens, and after how long
// all others have given one up that lost its power.
func (r *rival) measure() (rest, times) {
	time.Sleep(time.Minute) // The news of the joins are out.
	spent := measureRest(r.ends, 20*time.Second)
	begun := time.Now()
	const victim = 1
	r.w.lan.power(r.w.addr(victim), false)
	time.Sleep(2 * time.Minute)
	var took times
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.lost {
		if e.by != victim {
			took = append(took, e.at.Sub(begun))
		}
	}
	slices.Sort(took)
	return spent, took
}

func (r *rival) stop() {
	for _, n := range r.nodes {
		_ = n.Shutdown()
	}
	time.Sleep(dregs)
}
