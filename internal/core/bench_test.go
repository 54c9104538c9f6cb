package core

import (
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/election"
	"github.com/belfrylb/belfry/internal/layer2"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/lb/lbtest"
)

// large returns a Core of node n0000 in a cluster of so many nodes and addresses, which
// have owners, and the members that it knows.
func large(size, addresses int) (*Core, []election.Member) {
	var s lb.Snapshot
	s.Pools = []lb.Pool{lbtest.Everything()}
	s.L2Advertisements = []lb.L2Advertisement{{Name: "all"}}
	members := make([]election.Member, size)
	for i := range size {
		name := fmt.Sprintf("n%04d", i)
		own := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		s.Nodes = append(s.Nodes, lb.Node{Name: name, Addresses: []netip.Addr{own}})
		members[i] = election.Member{
			Node: name, Address: own, State: election.Alive, Claims: election.Claims{}, Version: election.Version{Boot: 1, Seq: 1},
			Interfaces: []lb.Interface{{Index: 2, Name: "eth0", MAC: lb.MAC{2, 4: byte(i >> 8), 5: byte(i)}, Up: true, Carrier: true, Addresses: []netip.Prefix{netip.PrefixFrom(own, 8)}}},
		}
	}
	for i := range addresses {
		a := netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
		owner := &members[i%size]
		owner.Claims[a] = election.Claim{Quorum: election.Majority, Epoch: 1}
		s.Services = append(s.Services, lb.Service{
			Key: lb.ServiceKey{Namespace: "ns", Name: fmt.Sprintf("s%05d", i)}, Assigned: []netip.Addr{a}, Placed: []string{owner.Node},
			Announced: true, Endpoints: lb.Endpoints{IPv4: lb.NodeEndpoints{"": {Ready: 1}}},
		})
	}
	c := New(Config{Node: "n0000", Gossip: netip.AddrFrom4([4]byte{192, 0, 2, 11})})
	c.SetInterfaces(members[0].Interfaces)
	c.SetMembers(start, members)
	c.Configure(start, s)
	c.Settle(start)
	if n := len(c.intent.Decisions); n != addresses {
		panic(fmt.Sprintf("%d addresses are decided about", n))
	}
	return c, members
}

// processorTime is what this process has used so far: what else the machine does is not
// in it.
func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkLoseANode is what it costs to decide after one of so many nodes is gone, and
// again once it is back.
func BenchmarkLoseANode(b *testing.B) {
	for _, size := range []struct{ nodes, addresses int }{{10, 1000}, {100, 10000}, {1000, 10000}} {
		b.Run(fmt.Sprintf("%d/%d", size.nodes, size.addresses), func(b *testing.B) {
			c, members := large(size.nodes, size.addresses)
			fewer := slices.Delete(slices.Clone(members), size.nodes/2, size.nodes/2+1)
			now := start
			b.ReportAllocs()
			begun := processorTime()
			for i := 0; b.Loop(); i++ {
				now = now.Add(time.Second)
				c.SetMembers(now, [][]election.Member{fewer, members}[i%2])
				c.Settle(now)
			}
			b.ReportMetric(float64((processorTime()-begun).Nanoseconds())/float64(b.N), "cpu-ns/op")
		})
	}
}

// BenchmarkForeignFrameFull is what one more costs when as many as are remembered
// have been heard.
func BenchmarkForeignFrameFull(b *testing.B) {
	c, _ := large(10, 1000)
	claim := func(i int) {
		c.Hear(start, layer2.Heard{Address: netip.AddrFrom4([4]byte{10, 1, 0, 0}), MAC: lb.MAC{0xde, 2: byte(i >> 24), 3: byte(i >> 16), 4: byte(i >> 8), 5: byte(i)}, Interface: 2, Kind: layer2.HeardReply})
	}
	for i := range conflictsMost {
		claim(i)
	}
	c.Settle(start)
	b.ReportAllocs()
	for i := conflictsMost; b.Loop(); i++ {
		claim(i)
		c.Settle(start)
	}
}

// BenchmarkForeignFrame is what a frame costs by which a foreign station claims an
// address.
func BenchmarkForeignFrame(b *testing.B) {
	c, _ := large(10, 1000)
	now := start
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		c.Hear(now, layer2.Heard{Address: netip.AddrFrom4([4]byte{10, 1, 0, 0}), MAC: lb.MAC{0xde, 4: byte(i >> 8 & 15), 5: byte(i)}, Interface: 2, Kind: layer2.HeardReply})
		c.Settle(now)
	}
}
