from .global_view import AgreementLoss, GlobalViewLoss

__all__ = ['AgreementLoss', 'GlobalViewLoss']
