package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// inWords says an error as a person reads it, once it has reached the edge: of what lies
// between them and the API server it says that, and not in what call it showed.
func inWords(err error) string {
	var call *url.Error
	var wire net.Error
	switch {
	case errors.Is(err, context.Canceled):
		return "interrupted"
	case errors.As(err, &call) && (errors.As(call.Err, &wire) || errors.Is(err, context.DeadlineExceeded)):
		server := call.URL
		if u, malformed := url.Parse(call.URL); malformed == nil {
			server = u.Scheme + "://" + u.Host
		}
		return fmt.Sprintf("the API server %s does not answer: %v", server, innermost(call.Err))
	case apierrors.IsUnauthorized(err):
		return "the API server does not know who you are: the credentials of your kubeconfig are wrong or have expired"
	default:
		return err.Error()
	}
}

// innermost returns what an error of the network is about in the end, but for the
// system call that it showed in.
func innermost(err error) error {
	for {
		within := errors.Unwrap(err)
		if within == nil {
			return err
		}
		err = within
	}
}

// cannotRead says why a kind cannot be read.
func cannotRead(k kind, err error) error {
	switch {
	case apierrors.IsNotFound(err) && k.Group == belfry.Group:
		return fmt.Errorf("this cluster has no kind %s of %s: Belfry is not installed, or is of another version", k.Kind, k.GroupVersion())
	case apierrors.IsForbidden(err):
		return fmt.Errorf("you may not read %s of the whole cluster, which the ClusterRole view with belfry-view allows if a ClusterRoleBinding gives it to you: %w", k.resource, err)
	default:
		return fmt.Errorf("read %s: %w", k.resource, err)
	}
}

// cannotAnnotate says why what a verb asks for cannot be written.
func cannotAnnotate(resource, name string, err error) error {
	if apierrors.IsForbidden(err) {
		return fmt.Errorf("you may see what it would do (--dry-run), but not do it: it takes the right to patch %s: %w", resource, err)
	}
	return fmt.Errorf("annotate %s %s: %w", resource, name, err)
}
