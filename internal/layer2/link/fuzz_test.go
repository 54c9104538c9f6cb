package link

import (
	"net/netip"
	"testing"

	"github.com/belfrylb/belfry/internal/layer2"
	"github.com/belfrylb/belfry/internal/lb"
)

// fuzzReceive checks that no frame can do harm, and that whatever is answered
// is answered with a frame that we would accept ourselves, for an address that
// is ours, from our hardware address, to a single station or all nodes.
func fuzzReceive(f *testing.F, receive func(*layer2.Table, *layer2.Station, int, []byte) outcome) {
	us, them := lb.MAC{2, 0, 0, 0, 0, 1}, lb.MAC{2, 0, 0, 0, 0, 2}
	for _, l := range conversation(us, them) {
		f.Add(l.frame)
	}
	table := layer2.NewTable(claimed(7, 8))
	station := layer2.NewStation([]lb.Interface{{
		Index: 7, MAC: us, Up: true, Carrier: true,
		Addresses: []netip.Prefix{netip.PrefixFrom(held4, 24), netip.PrefixFrom(held6, 64)},
	}})
	f.Fuzz(func(t *testing.T, frame []byte) {
		o := receive(table, station, 7, frame)
		if o.malformed != wellFormed {
			if o.reply != nil || o.asked || o.uses.IsValid() {
				t.Fatalf("malformed (%v), and yet %+v", o.malformed, o)
			}
			return
		}
		if !o.uses.IsValid() || o.usedBy == (lb.MAC{}) {
			t.Fatalf("used by nobody: %+v", o)
		}
		if (o.reply != nil) != (o.asked && o.verdict == layer2.Answered) {
			t.Fatalf("verdict %v, reply %x", o.verdict, o.reply)
		}
		if o.reply == nil {
			return
		}
		if lb.MAC(o.reply[6:12]) != us {
			t.Fatalf("answered from a foreign hardware address: %x", o.reply)
		}
		to := lb.MAC(o.reply[:6])
		if a, m := parseARP(o.reply); m == wellFormed {
			if a.request || a.sender != vip4 || a.senderMAC != us || to[0]&1 != 0 {
				t.Fatalf("ARP answer %+v to %v", a, to)
			}
			return
		}
		n, m := parseNDP(o.reply)
		if m != wellFormed || n.solicitation || n.target != vip6 || n.mac != us || to[0]&1 != 0 && to != allNodesMAC {
			t.Fatalf("NDP answer %+v (%v) to %v", n, m, to)
		}
	})
}

func FuzzARP(f *testing.F) { fuzzReceive(f, receiveARP) }
func FuzzNDP(f *testing.F) { fuzzReceive(f, receiveNDP) }
