package migrate

import (
	"fmt"

	"github.com/belfrylb/belfry/api/v1beta1"
)

// pureLB is what PureLB is configured by, of its version v1.
var pureLB = Source{
	Name: "purelb", Title: "PureLB", Groups: []string{"purelb.io"}, Namespace: "purelb",
	order: []string{"ServiceGroup", "LBNodeAgent"},
	kinds: map[string]func(t *Translation, m Metadata, f *fields){
		"ServiceGroup": (*Translation).pureLBGroup,
		"LBNodeAgent":  (*Translation).pureLBAgent,
	},
	annotations: map[string]string{
		"purelb.io/service-group": "belfry.dev/address-pool", "purelb.io/addresses": "belfry.dev/loadBalancerIPs",
		"purelb.io/allow-shared-ip": "belfry.dev/allow-shared-ip",
	},
}

// pureLBGroup makes a pool of a group. Only that of the name default is used without being
// asked for.
func (t *Translation) pureLBGroup(m Metadata, f *fields) {
	p := &v1beta1.IPAddressPool{}
	p.TypeMeta, p.ObjectMeta = t.meta("IPAddressPool", m)
	if m.Name != "default" {
		asked := false
		p.Spec.AutoAssign = &asked
	}
	take := func(of *fields) {
		for _, part := range append([]*fields{of, of.part("v4pool"), of.part("v6pool")}, append(of.parts("v4pools"), of.parts("v6pools")...)...) {
			if span := part.text("pool"); span != "" {
				p.Spec.Addresses = append(p.Spec.Addresses, v1beta1.AddressRange(part.span("pool", span)))
			}
			part.take("subnet") // a node knows its own
			if a := part.text("aggregation"); a != "" && a != "default" {
				part.note("aggregation", fmt.Sprintf("%s is the aggregationLength of a BGPAdvertisement here: it is left out", a))
			}
			if part != of {
				part.rest()
			}
		}
		of.rest()
	}
	if local := f.part("local"); len(local.of) > 0 {
		take(local)
		a := &v1beta1.L2Advertisement{Spec: v1beta1.L2AdvertisementSpec{IPAddressPools: []v1beta1.ObjectName{v1beta1.ObjectName(m.Name)}}}
		a.TypeMeta, a.ObjectMeta = t.meta("L2Advertisement", m)
		t.L2Advertisements = append(t.L2Advertisements, a)
	}
	if remote := f.part("remote"); len(remote.of) > 0 {
		take(remote)
		remote.note("", "a routing daemon on the nodes advertises what PureLB puts onto its interface; Belfry peers with routers itself: write a BGPPeer, and a BGPAdvertisement of pool "+m.Name)
	}
	if netbox := f.part("netbox"); len(netbox.of) > 0 {
		netbox.of = nil
		netbox.note("", "Belfry asks no other system for addresses: it is left out")
	}
	if len(p.Spec.Addresses) == 0 {
		f.note("", "it has no addresses: no IPAddressPool is made of it")
		return
	}
	t.Pools = append(t.Pools, p)
}

func (t *Translation) pureLBAgent(_ Metadata, f *fields) {
	local := f.part("local")
	if name := local.text("localint"); name != "" && name != "default" {
		local.note("localint", fmt.Sprintf("write %s into interfaces of the L2Advertisements, if it is to be that one alone", name))
	}
	local.take("extlbint") // an interface for a routing daemon to read
	local.rest()
}
