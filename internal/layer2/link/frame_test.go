package link

import (
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"

	"github.com/mdlayher/arp"

	"github.com/belfrylb/belfry/internal/layer2"
	"github.com/belfrylb/belfry/internal/lb"
)

// Each frame that we send, byte by byte from the RFCs: what builds them is also
// what other tests compare with.
func TestWhatIsSentIsWhatTheRFCsSay(t *testing.T) {
	us, them := lb.MAC{2, 0, 0, 0, 0, 1}, lb.MAC{2, 0, 0, 0, 0, 2}
	table := layer2.NewTable([]layer2.Claim{{Address: vip4, Interfaces: []int{7}}, {Address: vip6, Interfaces: []int{7}}})
	station := layer2.NewStation([]lb.Interface{{Index: 7, MAC: us, Up: true, Carrier: true}})
	answer := func(receive func(*layer2.Table, *layer2.Station, int, []byte) outcome, question []byte) []byte {
		return receive(table, station, 7, question).reply
	}
	ask4 := func(sender netip.Addr) []byte {
		return marshalARP(arp.OperationRequest, broadcast, them, sender, lb.MAC{}, vip4)
	}
	for _, c := range []struct {
		name, want string
		got        []byte
	}{
		{
			"ARP reply (RFC 826)",
			"020000000002 020000000001 0806 0001 0800 06 04 0002 020000000001 c000020a 020000000002 c0000202",
			answer(receiveARP, ask4(peer4)),
		},
		{
			"ARP reply to a probe (RFC 5227 section 2.1.1): to who has no address yet",
			"020000000002 020000000001 0806 0001 0800 06 04 0002 020000000001 c000020a 020000000002 00000000",
			answer(receiveARP, ask4(netip.IPv4Unspecified())),
		},
		{
			"ARP announcement (RFC 5227 section 2.3)",
			"ffffffffffff 020000000001 0806 0001 0800 06 04 0001 020000000001 c000020a 000000000000 c000020a",
			gratuitousARP(layer2.GratuitousRequest, us, vip4),
		},
		{
			"ARP announcement as a reply (RFC 5944 section 4.6: the target is whoever hears it)",
			"ffffffffffff 020000000001 0806 0001 0800 06 04 0002 020000000001 c000020a ffffffffffff c000020a",
			gratuitousARP(layer2.GratuitousReply, us, vip4),
		},
		{
			"ARP probe (RFC 5227 section 2.1.1): without a sender's address",
			"ffffffffffff 020000000001 0806 0001 0800 06 04 0001 020000000001 00000000 000000000000 c000020a",
			probeFrame(us, vip4),
		},
		{
			"Neighbor Advertisement (RFC 4861 section 7.2.4): hop limit 255, Solicited and Override, target link-layer address",
			"020000000002 020000000001 86dd 60000000 0020 3a ff 20010db8000000000000000000000010 fe800000000000000000000000000002 " +
				"88 00 b98d 60000000 20010db8000000000000000000000010 0201 020000000001",
			answer(receiveNDP, solicitation(lb.MAC{}, them, peer6, vip6)),
		},
		{
			"Neighbor Advertisement to a detection (RFC 4861 section 7.2.4): to all nodes, Override alone",
			"333300000001 020000000001 86dd 60000000 0020 3a ff 20010db8000000000000000000000010 ff020000000000000000000000000001 " +
				"88 00 f90c 20000000 20010db8000000000000000000000010 0201 020000000001",
			answer(receiveNDP, solicitation(lb.MAC{}, them, netip.IPv6Unspecified(), vip6)),
		},
		{
			"unsolicited Neighbor Advertisement (RFC 4861 section 7.2.6): to all nodes, Override alone",
			"333300000001 020000000001 86dd 60000000 0020 3a ff 20010db8000000000000000000000010 ff020000000000000000000000000001 " +
				"88 00 f90c 20000000 20010db8000000000000000000000010 0201 020000000001",
			unsolicitedNA(layer2.UnsolicitedAdvertisement, us, vip6),
		},
		{
			"duplicate address detection (RFC 4862 section 5.4.2): to the group, from nobody, no options",
			"3333ff000010 020000000001 86dd 60000000 0018 3a ff 00000000000000000000000000000000 ff0200000000000000000001ff000010 " +
				"87 00 4ccf 00000000 20010db8000000000000000000000010",
			probeFrame(us, vip6),
		},
	} {
		if got := hex.EncodeToString(c.got); got != strings.ReplaceAll(c.want, " ", "") {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
	}
}
