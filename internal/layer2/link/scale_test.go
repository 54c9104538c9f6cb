package link

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/layer2"
	"github.com/belfrylb/belfry/internal/lb"
)

// thousands returns n claims of each family.
func thousands(n, index int) []layer2.Claim {
	var out []layer2.Claim
	v4, v6 := netip.MustParseAddr("10.1.0.0"), netip.MustParseAddr("2001:db8:1::")
	for range n {
		v4, v6 = v4.Next(), v6.Next()
		out = append(out, layer2.Claim{Address: v4, Interfaces: []int{index}}, layer2.Claim{Address: v6, Interfaces: []int{index}})
	}
	return out
}

// Ten thousand addresses at once, IPv6 ones in more groups than two sockets may hold
// (net.core.optmem_max), are all announced, in both forms of ARP, and answered meanwhile.
func TestTenThousandAddressesAtOnce(t *testing.T) {
	n := newLAN(t)
	l, reg := n.node.runLink(Options{Rate: 5000})
	index, us, them := n.node.index("eth0"), n.node.mac("eth0"), n.peer.mac("eth0")
	tap, frames := n.peer.tap("eth0")
	claims := thousands(5000, index)
	start := time.Now()
	l.Set(claims)

	want := map[string]bool{}
	for _, c := range claims {
		if c.Address.Is4() {
			want[string(gratuitousARP(layer2.GratuitousRequest, us, c.Address))] = true
			want[string(gratuitousARP(layer2.GratuitousReply, us, c.Address))] = true
		} else {
			want[string(unsolicitedNA(layer2.UnsolicitedAdvertisement, us, c.Address))] = true
		}
	}
	last := claims[len(claims)-2].Address
	answer := string(marshalARP(2, them, us, last, them, peer4))
	answered := false
	var next time.Time
	for timeout := time.After(60 * time.Second); len(want) > 0 || !answered; {
		select {
		case f := <-frames:
			delete(want, string(f))
			if now := time.Now(); !answered && now.After(next) { // something is announced: sockets are open
				next = now.Add(time.Second)
				if err := tap.send(requestARP(broadcast, them, peer4, last)); err != nil {
					t.Fatal(err)
				}
			}
			if !answered && string(f) == answer {
				answered = true
				t.Logf("the last of them is answered after %v", time.Since(start))
			}
		case <-timeout:
			t.Fatalf("%d announcements are missing; answered: %v; sent %v", len(want), answered, read(t, reg, "gratuitous_total"))
		}
	}
	t.Logf("all announced after %v", time.Since(start))
	groups := func() int { return strings.Count(n.node.ip("-6", "maddr", "show", "dev", "eth0"), "ff02::1:ff") }
	if got := groups(); got < 5000 {
		t.Errorf("%d solicited-node groups joined, want 5000", got)
	}
	l.Set(claims[:10])
	eventually(t, "groups are left again", func() (bool, string) {
		got := groups()
		return got < 10, fmt.Sprint(got)
	})
}

// Whatever an interface goes through, and however fast, what the Link believes
// in the end is what the kernel says.
func TestAStormOfChangesIsFollowedToItsEnd(t *testing.T) {
	n := newLAN(t)
	l, _ := n.node.runLink(Options{})
	var batch strings.Builder
	for i := range 400 {
		fmt.Fprintf(&batch, "addr add 10.%d.%d.1/24 dev eth0\n", i/200, i%200)
		fmt.Fprintf(&batch, "addr add 2001:db8:%x::1/64 dev eth0\n", i+16)
		switch i % 50 {
		case 10:
			fmt.Fprintf(&batch, "link add v%d type veth peer name w%d\n", i, i)
		case 20:
			fmt.Fprintf(&batch, "link set v%d up\nlink set w%d up\n", i-10, i-10)
		case 30:
			fmt.Fprintf(&batch, "link set dev eth0 address 02:00:00:00:00:%02x\n", i%256)
		case 40:
			fmt.Fprintf(&batch, "link set v%d down\nlink set v%d name x%d\nlink set x%d up\n", i-30, i-30, i, i)
		}
	}
	for i := range 200 {
		fmt.Fprintf(&batch, "addr del 10.%d.%d.1/24 dev eth0\n", i/200, i%200)
	}
	n.node.batch(batch.String())
	eventually(t, "the Link knows what the kernel knows", func() (bool, string) {
		var now []lb.Interface
		var err error
		n.node.do(func() error {
			now, err = list() // a change may interrupt it, which is no failure
			return nil
		})
		return err == nil && slices.EqualFunc(now, l.Interfaces(), lb.Interface.Equal), fmt.Sprintf("%d interfaces with the kernel (%v), %d with us", len(now), err, len(l.Interfaces()))
	})
	if i := named(l, "eth0"); len(i.Addresses) < 600 {
		t.Errorf("eth0 has %d addresses, want 600 and its own", len(i.Addresses))
	}
}

// A reader that fell behind is told so by the kernel (ENOBUFS). It must then
// still hear what comes after, and know that something happened.
func TestALossOfMessagesIsNoticed(t *testing.T) {
	n := newLAN(t)
	var s *subscription
	n.node.do(func() (err error) {
		s, err = subscribe()
		if err == nil {
			err = s.socket.SetReceiveBufferSize(4096, false)
		}
		return err
	})
	for i := range 100 { // nobody reads yet
		n.node.ip("addr", "add", fmt.Sprintf("10.0.%d.1/24", i), "dev", "eth0")
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.run(t.Context())
	}()
	heard := 0
	hear := func(patience time.Duration) bool {
		t.Helper()
		select {
		case _, ok := <-s.changes:
			if !ok {
				t.Fatalf("the subscription broke: %v", s.err)
			}
			heard++
			return true
		case <-time.After(patience):
			return false
		}
	}
	for patience := 5 * time.Second; hear(patience); {
		patience = 100 * time.Millisecond
	}
	if heard == 0 || heard >= 100 {
		t.Fatalf("heard %d times of 100 changes, so none was lost or all", heard)
	}
	n.node.ip("link", "set", "eth0", "mtu", "1400")
	if !hear(5 * time.Second) {
		t.Error("a change after the loss is not heard")
	}
	s.socket.Close()
	for range s.changes {
	}
	<-ended
}

// packetSockets counts the packet sockets in a namespace.
func (h host) packetSockets() int {
	h.t.Helper()
	n := 0
	h.do(func() error {
		b, err := os.ReadFile("/proc/thread-self/net/packet")
		n = strings.Count(string(b), "\n") - 1
		return err
	})
	return n
}

func TestSocketsAreOpenOnlyWhereSomethingIsClaimed(t *testing.T) {
	n := newLAN(t)
	cable(n.node, "eth1", n.peer, "eth1")
	l, _ := n.node.runLink(Options{})
	e0, e1 := n.node.index("eth0"), n.node.index("eth1")
	for _, c := range []struct {
		name   string
		claims []layer2.Claim
		want   int
	}{
		{"nothing", nil, 0},
		{"both families on one interface", claims(e0), 2},
		{"IPv4 on one interface", claims(e0)[:1], 1},
		{"IPv6 on two interfaces", claims(e0, e1)[1:], 2},
		{"both on two, and on one that is not there", claims(e0, e1, 999), 4},
		{"on loopback", claims(1), 0},
		{"on another interface", claims(e1), 2},
		{"nothing again", nil, 0},
	} {
		l.Set(c.claims)
		eventually(t, c.name, func() (bool, string) {
			got := n.node.packetSockets()
			return got == c.want, fmt.Sprintf("%d packet sockets, want %d", got, c.want)
		})
	}
	for range 50 { // each time sockets open and close while frames come in
		l.Set(claims(e0, e1))
		l.Set(nil)
	}
	l.Set(claims(e0))
	eventually(t, "after many changes", func() (bool, string) {
		got := n.node.packetSockets()
		return got == 2, fmt.Sprintf("%d packet sockets, want 2", got)
	})
}
