package kube

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belfrylb/belfry/api/v1beta1"
	"github.com/belfrylb/belfry/internal/config"
)

// perhapsPasswords leaves out the Secrets that are many or large and that are not
// taken for a peer's password. One of another wrong type is wanted, so that the
// peer can say what is wrong with it.
func perhapsPasswords(o metav1.ListOptions) metav1.ListOptions {
	o.FieldSelector = "type!=helm.sh/release.v1,type!=" + string(corev1.SecretTypeServiceAccountToken)
	return o
}

// secretChanged takes a Secret for a change of configuration only if a peer or a
// BFD profile names it.
func (c *Cluster) secretChanged(was, is *row[config.PasswordSecret]) {
	if was != nil && is != nil && was.value.Equal(is.value) {
		return
	}
	r := was
	if is != nil {
		r = is
	}
	if c.namesSecret(r.name.Name) {
		c.changes.config = true
		c.notify()
	}
	c.staleConfig = true
}

// namesSecret reports whether anything in BGP's configuration names a Secret; mu is
// held.
func (c *Cluster) namesSecret(name string) bool {
	for p := range rows(c.peers) {
		if p.Spec.PasswordSecret != nil && string(p.Spec.PasswordSecret.Name) == name {
			return true
		}
	}
	for p := range rows(c.profiles) {
		if a := p.Spec.Authentication; a != nil && slices.ContainsFunc(a.Keys, func(k v1beta1.BFDKey) bool { return string(k.PasswordSecret.Name) == name }) {
			return true
		}
	}
	return false
}

// bgpObjects are the objects of BGP as they are; mu is held.
func (c *Cluster) bgpObjects() config.BGPObjects {
	out := config.BGPObjects{
		Peers:          slices.Collect(rows(c.peers)),
		Advertisements: slices.Collect(rows(c.bgpads)),
		Communities:    slices.Collect(rows(c.communities)),
		BFDProfiles:    slices.Collect(rows(c.profiles)),
		Passwords:      map[string]config.PasswordSecret{},
	}
	maps.Insert(out.Passwords, func(yield func(string, config.PasswordSecret) bool) {
		for n, r := range c.secrets.rows {
			if !yield(n.Name, r.value) {
				return
			}
		}
	})
	return out
}
