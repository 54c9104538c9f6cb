package membership

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	goruntime "runtime/metrics"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/belfrylb/belfry/internal/election"
)

func TestStreamsComeFromNodesAndMembersOnly(t *testing.T) {
	for _, a := range []struct{ node, member, other string }{
		{"192.0.2.11", "192.0.2.12", "192.0.2.13"},
		{"2001:db8::11", "2001:db8::12", "2001:db8::13"},
	} {
		node, member, other := netip.MustParseAddr(a.node), netip.MustParseAddr(a.member), netip.MustParseAddr(a.other)
		b := newBorder(newMetrics(nil).dropped)
		if err := b.enter(node); !errors.Is(err, errNoNode) {
			t.Errorf("%s before anything is known of Nodes: %v", node, err)
		}
		b.setPeers([]netip.Addr{node})
		b.setMembers([]netip.Addr{member})
		for from, want := range map[netip.Addr]error{node: nil, member: nil, other: errNoNode} {
			if err := b.enter(from); !errors.Is(err, want) {
				t.Errorf("%s: %v, want %v", from, err, want)
			}
		}
		b.setPeers(nil)
		if err := b.enter(node); !errors.Is(err, errNoNode) {
			t.Errorf("%s, which is a Node no more: %v", node, err)
		}
		if got := testutil.ToFloat64(b.dropped.WithLabelValues(dropForeign)); got != 3 {
			t.Errorf("%v foreign streams counted, want 3", got)
		}
	}
}

func TestStreamsAreBoundedInNumber(t *testing.T) {
	b := newBorder(newMetrics(nil).dropped)
	var nodes []netip.Addr
	for a := netip.MustParseAddr("2001:db8::1"); len(nodes) <= streamsInAll/streamsEach; a = a.Next() {
		nodes = append(nodes, a)
	}
	b.setPeers(nodes)
	for i, node := range nodes[:streamsInAll/streamsEach] {
		for range streamsEach {
			if err := b.enter(node); err != nil {
				t.Fatalf("node %d: %v", i, err)
			}
		}
	}
	if err := b.enter(nodes[0]); !errors.Is(err, errTooMany) {
		t.Errorf("one more of one node: %v", err)
	}
	last := nodes[len(nodes)-1]
	if err := b.enter(last); !errors.Is(err, errTooMany) {
		t.Errorf("one more in all: %v", err)
	}
	b.leave(nodes[0], load{streams: 1})
	if err := b.enter(last); err != nil {
		t.Errorf("after one has ended: %v", err)
	}
	if got := testutil.ToFloat64(b.dropped.WithLabelValues(dropOverflow)); got != 2 {
		t.Errorf("%v counted, want 2", got)
	}
}

// What is open is what has come and not gone, whatever the order.
func TestBorderKeepsItsAccounts(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		b := newBorder(newMetrics(nil).dropped)
		nodes := []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("2001:db8::1")}
		b.setPeers(nodes)
		limit := bytesBase + bytesPerPeer*len(nodes)
		type stream struct {
			from netip.Addr
			had  load
		}
		var open []*stream
		for range 300 {
			streams, bytes, all := map[netip.Addr]int{}, map[netip.Addr]int{}, 0
			for _, s := range open {
				streams[s.from]++
				bytes[s.from] += s.had.bytes
				all += s.had.bytes
			}
			switch n := r.IntN(4); {
			case n == 0:
				from := nodes[r.IntN(len(nodes))]
				err := b.enter(from)
				if want := streams[from] < streamsEach; (err == nil) != want {
					t.Fatalf("seed %d: a stream beside %d: %v", seed, streams[from], err)
				}
				if err == nil {
					open = append(open, &stream{from, load{streams: 1}})
				}
			case n == 1 && len(open) > 0:
				i := r.IntN(len(open))
				b.leave(open[i].from, open[i].had)
				open = append(open[:i], open[i+1:]...)
			case len(open) > 0:
				s, n := open[r.IntN(len(open))], r.IntN(limit/6)
				err := b.bring(s.from, n)
				if want := bytes[s.from]+n <= limit/2 && all+n <= limit; (err == nil) != want {
					t.Fatalf("seed %d: %d bytes beside %d and %d in all: %v", seed, n, bytes[s.from], all, err)
				}
				if err == nil {
					s.had.bytes += n
				}
			}
		}
		for _, s := range open {
			b.leave(s.from, s.had)
		}
		if b.total != (load{}) || len(b.by) != 0 {
			t.Fatalf("seed %d: all have left, and %v, %v are on account", seed, b.total, b.by)
		}
	}
}

// Whoever has no key costs next to nothing, from a Node's address too.
func TestStreamsWithoutTheKeyCostLittleMemory(t *testing.T) {
	for name, from := range map[string]func(*cluster) netip.Addr{
		"from a Node":  func(c *cluster) netip.Addr { return c.addr(3) },
		"from no Node": func(c *cluster) netip.Addr { return c.addr(99) },
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, 3)
			m := c.start(1)
			c.start(2)
			m.sees("node-02", 3*time.Second, with(c.node(2), election.Alive))
			before := heap()

			const streams, length = 20, 19 << 20
			var wg sync.WaitGroup
			var most atomic.Uint64
			var sent atomic.Int64
			chunk := make([]byte, 64<<10)
			for range streams {
				wg.Go(func() {
					d := net.Dialer{LocalAddr: &net.TCPAddr{IP: from(c).AsSlice()}}
					tcp, err := d.Dial("tcp", hostPort(m.addr, c.port))
					if err != nil {
						t.Error(err)
						return
					}
					defer tcp.Close()
					_, err = tcp.Write([]byte{10, length >> 24, length >> 16 & 0xff, length >> 8 & 0xff, length & 0xff})
					for range length / len(chunk) {
						if err != nil {
							break // Refused.
						}
						var n int
						n, err = tcp.Write(chunk)
						sent.Add(int64(n))
					}
					// What was taken is kept until the speaker has had enough of it.
					_ = tcp.SetReadDeadline(time.Now().Add(10 * time.Second))
					_, _ = io.Copy(io.Discard, tcp)
				})
			}
			done := make(chan struct{})
			go func() { wg.Wait(); close(done) }()
			for waiting := true; waiting; {
				select {
				case <-done:
					waiting = false
				case <-time.After(5 * time.Millisecond):
					most.Store(max(most.Load(), heap()))
				}
			}
			grown := int64(most.Load()) - int64(before)
			t.Logf("%d streams sent %d KiB; the heap grew by %d KiB", streams, sent.Load()>>10, grown>>10)
			if grown > 10<<20 {
				t.Errorf("%d streams without the key cost %d KiB", streams, grown>>10)
			}
			if got := testutil.ToFloat64(m.metrics.dropped.WithLabelValues(dropForeign)) + testutil.ToFloat64(m.metrics.dropped.WithLabelValues(dropOverflow)); got < streams {
				t.Errorf("%v of %d counted", got, streams)
			}
			m.sees("node-02 alive still", 3*time.Second, with(c.node(2), election.Alive))
			m.border.mu.Lock()
			defer m.border.mu.Unlock()
			if got := m.border.by[from(c)]; got != (load{}) {
				t.Errorf("all have ended, and %+v is on account", got)
			}
		})
	}
}

// heap returns the bytes of what lives on the heap: what the garbage collector has marked.
// What was allocated since is not in it, as HeapAlloc has it.
func heap() uint64 {
	runtime.GC()
	live := []goruntime.Sample{{Name: "/gc/heap/live:bytes"}}
	goruntime.Read(live)
	return live[0].Value.Uint64()
}

// A node that has the key may tell of names without end.
func TestNamesAreBoundedInNumber(t *testing.T) {
	c := newCluster(t, 2)
	m := c.start(1)
	const names = 1000
	var state []byte
	for i := range names {
		r := &election.Record{Node: fmt.Sprintf("no-node-%d", i), Address: c.addr(2), Boot: 1, Whole: true, Claims: election.Claims{}}
		state = appendFramed(state, encode(r, election.Relayed))
	}
	newDelegate(m.Membership).MergeRemoteState(state, false)
	overflow := func() float64 { return testutil.ToFloat64(m.metrics.dropped.WithLabelValues(dropOverflow)) }
	want := float64(names - election.Room(1))
	eventually(t, 5*time.Second, func() (bool, string) {
		return overflow() == want, fmt.Sprintf("%v names refused, want %v", overflow(), want)
	})
}

func TestMembersAreBoundedInNumber(t *testing.T) {
	c := newCluster(t, 2)
	m, err := New(Config{Node: "n", Bind: c.addr(1), Keys: testKeys}, testLog(t, "n"), nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	d := newDelegate(m)
	node := func(i int) *memberlist.Node {
		return &memberlist.Node{Name: fmt.Sprintf("node-%d", i), Addr: c.addr(2).AsSlice()}
	}
	d.NotifyJoin(&memberlist.Node{Name: "n", Addr: c.addr(1).AsSlice()})
	room := election.Room(0)
	for i := range room {
		if err := d.NotifyAlive(node(i)); err != nil {
			t.Fatalf("node %d of %d: %v", i, room, err)
		}
		d.NotifyJoin(node(i))
	}
	if err := d.NotifyAlive(node(room)); err == nil {
		t.Errorf("%d members and one more", room)
	}
	if err := d.NotifyAlive(node(3)); err != nil {
		t.Errorf("a member of them: %v", err)
	}
	d.NotifyLeave(node(3))
	if err := d.NotifyAlive(node(room)); err != nil {
		t.Errorf("after one has left: %v", err)
	}
	m.SetPeers(make([]netip.Addr, 50))
	for i := room; i < election.Room(50); i++ {
		if err := d.NotifyAlive(node(i)); err != nil {
			t.Fatalf("node %d of a cluster of 50: %v", i, err)
		}
		d.NotifyJoin(node(i))
	}
}

// How many addresses there are reaches the View, which bounds claims by it.
func TestTheNumberOfAddressesIsHandedOn(t *testing.T) {
	if got := copyOf(Local{Addresses: 7}).Addresses; got != 7 {
		t.Errorf("%d, want 7", got)
	}
}
