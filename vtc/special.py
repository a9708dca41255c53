"""Functions of mathematics, by PyTorch's names: ``vtc.special.i0(x)``."""

from __future__ import annotations

from vtc.frontend.functions.activation import log_softmax, softmax
from vtc.frontend.functions.activation import sigmoid as expit
from vtc.frontend.functions.bessel import i0, i0e, i1, i1e
from vtc.frontend.functions.bessel import i0 as modified_bessel_i0
from vtc.frontend.functions.bessel import i1 as modified_bessel_i1
from vtc.frontend.functions.elementwise import erf, round
from vtc.frontend.functions.polynomials import (
    chebyshev_polynomial_t,
    chebyshev_polynomial_u,
    chebyshev_polynomial_v,
    chebyshev_polynomial_w,
    hermite_polynomial_h,
    hermite_polynomial_he,
    laguerre_polynomial_l,
    legendre_polynomial_p,
    shifted_chebyshev_polynomial_t,
    shifted_chebyshev_polynomial_u,
    shifted_chebyshev_polynomial_v,
    shifted_chebyshev_polynomial_w,
)
from vtc.frontend.functions.probability import (
    entr,
    erfcx,
    log_ndtr,
    ndtr,
    ndtri,
    xlog1py,
)
from vtc.frontend.functions.probability import mvlgamma as multigammaln
from vtc.frontend.functions.reduce import logsumexp
from vtc.frontend.functions.special import (
    digamma,
    erfc,
    erfinv,
    exp2,
    expm1,
    log1p,
    logit,
    polygamma,
    sinc,
    xlogy,
)
from vtc.frontend.functions.special import digamma as psi
from vtc.frontend.functions.special import lgamma as gammaln

__all__ = [
    "chebyshev_polynomial_t",
    "chebyshev_polynomial_u",
    "chebyshev_polynomial_v",
    "chebyshev_polynomial_w",
    "digamma",
    "entr",
    "erf",
    "erfc",
    "erfcx",
    "erfinv",
    "exp2",
    "expit",
    "expm1",
    "gammaln",
    "hermite_polynomial_h",
    "hermite_polynomial_he",
    "i0",
    "i0e",
    "i1",
    "i1e",
    "laguerre_polynomial_l",
    "legendre_polynomial_p",
    "log1p",
    "log_ndtr",
    "log_softmax",
    "logit",
    "logsumexp",
    "modified_bessel_i0",
    "modified_bessel_i1",
    "multigammaln",
    "ndtr",
    "ndtri",
    "polygamma",
    "psi",
    "round",
    "shifted_chebyshev_polynomial_t",
    "shifted_chebyshev_polynomial_u",
    "shifted_chebyshev_polynomial_v",
    "shifted_chebyshev_polynomial_w",
    "sinc",
    "softmax",
    "xlog1py",
    "xlogy",
]
