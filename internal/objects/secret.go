package objects

import (
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/belfrylb/belfry/internal/config"
	"github.com/belfrylb/belfry/internal/lb"
)

// passwordKey is the key of a basic-auth Secret that holds the password.
const passwordKey = corev1.BasicAuthPasswordKey

// Secret keeps of a Secret what a peer's password is judged by, and the
// password only for those who sign with it: the controller keeps a text of the
// same length. Of a Secret of another type nothing is kept but that.
func (o Scope) Secret(s *corev1.Secret) config.PasswordSecret {
	out := config.PasswordSecret{Type: string(s.Type)}
	if s.Type != corev1.SecretTypeBasicAuth {
		return out
	}
	var text []byte
	text, out.Present = s.Data[passwordKey]
	if o.Role == Allocating {
		out.Password = lb.NewSecret(strings.Repeat("*", len(text)))
	} else {
		out.Password = lb.NewSecret(string(text))
	}
	return out
}
