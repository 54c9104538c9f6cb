// Package ping has a node's kernel answer echo requests to addresses that the node
// attracts.
//
// An announced address is on no interface, so the kernel forwards an echo request for
// it as any other packet that kube-proxy does not take, and the sender is told
// "Redirect Host" and "Destination Host Unreachable". A speaker cannot change that: it
// may read packets and not stop them. One rule of nftables can: it redirects to the
// node itself what arrives on the segment. A node that does not attract the address is
// not asked, so an answer says just that a node announces it.
package ping

import (
	"errors"
	"fmt"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/ranges"
)

// A Rule says which echo requests the node answers.
type Rule struct {
	// Interfaces are those that they arrive on: names, or the beginning of names
	// followed by "*". Without them Pods would be answered by their own nodes, wherever
	// the address is.
	Interfaces []string
	// Addresses are those that may be asked for.
	Addresses []lb.AddressRange
}

// table is the name of ours, which no other program writes to.
const table = "belfry-ping"

// ahead of what kube-proxy and CNIs do about destinations, at -100 (NF_IP_PRI_NAT_DST).
var ahead = nftables.ChainPriorityRef(-101)

// Install puts the rule into the kernel's tables, in the place of one that is there. It
// needs NET_ADMIN, and is there until [Remove] or the node's end.
func Install(r Rule) error {
	if len(r.Interfaces) == 0 {
		return errors.New("no interface: name those on the segment, such as eth0 or en*")
	}
	if len(r.Addresses) == 0 {
		return errors.New("no address: name the ranges of the pools")
	}
	c := &nftables.Conn{}
	t := replace(c)
	chain := c.AddChain(&nftables.Chain{
		Name: "prerouting", Table: t, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPrerouting, Priority: ahead,
	})
	for _, f := range []family{
		{lb.IPv4, "addresses4", nftables.TypeIPAddr, unix.NFPROTO_IPV4, 16, 4, unix.IPPROTO_ICMP, 8},
		{lb.IPv6, "addresses6", nftables.TypeIP6Addr, unix.NFPROTO_IPV6, 24, 16, unix.IPPROTO_ICMPV6, 128},
	} {
		elements := f.elements(r.Addresses)
		if elements == nil {
			continue
		}
		set := &nftables.Set{Table: t, Name: f.set, KeyType: f.key, Interval: true}
		if err := c.AddSet(set, elements); err != nil {
			return fmt.Errorf("set of %v addresses: %w", f.family, err)
		}
		for _, name := range r.Interfaces {
			c.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: f.match(name, set)})
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("nftables: %w (it needs the capability NET_ADMIN, and a kernel with nf_tables and inet NAT: 5.2 or later)", err)
	}
	return nil
}

// Remove takes the rule away, if it is there.
func Remove() error {
	c := &nftables.Conn{}
	c.DelTable(replace(c))
	if err := c.Flush(); err != nil {
		return fmt.Errorf("nftables: %w (it needs the capability NET_ADMIN)", err)
	}
	return nil
}

// replace begins a transaction with an empty table of ours.
func replace(c *nftables.Conn) *nftables.Table {
	t := &nftables.Table{Family: nftables.TableFamilyINet, Name: table}
	c.AddTable(t) // or there is nothing to delete
	c.DelTable(t)
	return c.AddTable(t)
}

// A family is how an echo request of one looks: RFC 792, RFC 4443 section 4.1.
type family struct {
	family lb.Family
	set    string
	key    nftables.SetDatatype
	number byte
	// offset and length are those of the destination in the header.
	offset, length uint32
	protocol, echo byte
}

// elements are the addresses of the family, as intervals: where each begins, and where
// it has ended.
func (f family) elements(addresses []lb.AddressRange) (elements []nftables.SetElement) {
	for _, r := range ranges.Union(addresses) {
		if lb.FamilyOf(r.First) != f.family {
			continue
		}
		elements = append(elements, nftables.SetElement{Key: r.First.AsSlice()})
		if end := r.Last.Next(); end.IsValid() {
			elements = append(elements, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
		}
	}
	return elements
}

// match redirects echo requests that arrive on an interface for an address in a set.
func (f family) match(name string, set *nftables.Set) []expr.Any {
	const in = 1 // the register
	is := func(data []byte) expr.Any { return &expr.Cmp{Op: expr.CmpOpEq, Register: in, Data: data} }
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: in}, is(interfaceName(name)),
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: in}, is([]byte{f.number}),
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: in}, is([]byte{f.protocol}),
		&expr.Payload{DestRegister: in, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1}, is([]byte{f.echo}),
		&expr.Payload{DestRegister: in, Base: expr.PayloadBaseNetworkHeader, Offset: f.offset, Len: f.length},
		&expr.Lookup{SourceRegister: in, SetName: set.Name, SetID: set.ID},
		&expr.Redir{},
	}
}

// interfaceName is a name as the kernel compares it: to its end, or as far as it goes.
func interfaceName(name string) []byte {
	if prefix, any := strings.CutSuffix(name, "*"); any {
		return []byte(prefix)
	}
	return binaryutil.PutString(name + "\x00")
}
